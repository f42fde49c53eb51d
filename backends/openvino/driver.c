/* driver.exe DEVICE JOBS [KEY=VALUE ...]: compiles OpenVINO models with openvino_c.dll, under Wine or on Windows.
 *
 * JOBS has two lines per model: the path of its .xml, the path to write its compiled form to. "-" as JOBS only
 * prints versions. Prints a line for every event:
 *   @version OPENVINO COMPILER            @begin INDEX            @done INDEX SECONDS            @failed INDEX STAGE
 * with the library's message between @failed and @end. A model that fails does not end the others.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#include "openvino/c/openvino.h"

#define LINE 4096

static double seconds(void) {
    LARGE_INTEGER frequency, count;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&count);
    return (double)count.QuadPart / (double)frequency.QuadPart;
}

static int failed(int index, const char *stage) {
    const char *message = ov_get_last_err_msg();
    printf("@failed %d %s\n%s\n@end\n", index, stage, message ? message : "");
    fflush(stdout);
    return 1;
}

static int compile(ov_core_t *core, const char *device, int index, const char *xml, const char *blob) {
    ov_model_t *model = NULL;
    ov_compiled_model_t *compiled = NULL;
    double start = seconds();
    int bad = 0;
    printf("@begin %d\n", index);
    fflush(stdout);
    if (ov_core_read_model(core, xml, NULL, &model))
        bad = failed(index, "read");
    else if (ov_core_compile_model(core, model, device, 0, &compiled))
        bad = failed(index, "compile");
    else if (ov_compiled_model_export_model(compiled, blob))
        bad = failed(index, "export");
    else
        printf("@done %d %.3f\n", index, seconds() - start);
    fflush(stdout);
    if (compiled)
        ov_compiled_model_free(compiled);
    if (model)
        ov_model_free(model);
    return bad;
}

static int read_line(FILE *file, char *line) {
    if (!fgets(line, LINE, file))
        return 0;
    line[strcspn(line, "\r\n")] = 0;
    return line[0] != 0;
}

int main(int count, char **words) {
    ov_core_t *core = NULL;
    int bad = 0;
    if (count < 3) {
        fprintf(stderr, "usage: driver DEVICE JOBS [KEY=VALUE ...]\n");
        return 2;
    }
    if (ov_core_create(&core))
        return failed(-1, "start");
    for (int i = 3; i < count && !bad; i++) {
        char *value = strchr(words[i], '=');
        if (!value) {
            fprintf(stderr, "%s is not KEY=VALUE\n", words[i]);
            return 2;
        }
        *value++ = 0;
        if (ov_core_set_property(core, words[1], words[i], value))
            bad = failed(-1, words[i]);
    }
    if (!bad && !strcmp(words[2], "-")) {
        ov_version_t version;
        char *compiler = NULL;
        ov_get_openvino_version(&version);
        if (ov_core_get_property(core, words[1], "NPU_COMPILER_VERSION", &compiler))
            bad = failed(-1, "version");
        else
            printf("@version %s %s\n", version.buildNumber, compiler);
    } else if (!bad) {
        char xml[LINE], blob[LINE];
        FILE *jobs = fopen(words[2], "r");
        if (!jobs) {
            fprintf(stderr, "cannot read %s\n", words[2]);
            return 2;
        }
        for (int index = 0; read_line(jobs, xml) && read_line(jobs, blob); index++)
            bad |= compile(core, words[1], index, xml, blob);
    }
    fflush(stdout);
    TerminateProcess(GetCurrentProcess(), bad); /* the plugin's own tear-down hangs under Wine */
    return bad;
}
