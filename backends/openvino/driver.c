/* driver.exe DEVICE JOBS [KEY=VALUE ...]: compiles OpenVINO models with openvino_c.dll, under Wine or on Windows.
 *
 * JOBS has a line per model: a folder with model.xml and model.bin, in which the compiled form model.blob and the
 * compiler's own files appear. Several processes may have the same JOBS: a model is compiled by the one that makes
 * the folder "taken" in its folder. "-" as JOBS only prints versions. Prints a line for every event:
 *   @version OPENVINO COMPILER            @begin INDEX            @done INDEX SECONDS            @failed INDEX STAGE
 * with the library's message between @failed and @end. A model that fails does not end the others.
 *
 * It ends with its input: forgec holds the other end of that pipe, which closes however forgec ends.
 *
 * Properties go with every compile, not to the device: of some the plugin takes notice only there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#include "heap.h"
#include "openvino/c/openvino.h"

#define LINE 4096
#define MOST 16

/* What OpenVINO would load later: all have to be there when their heap is exchanged. */
static const char *const later[] = {"openvino_intel_npu_plugin.dll", "openvino_intel_npu_compiler_loader.dll",
                                    "openvino_intel_npu_compiler.dll", "openvino_intel_npu_vm_runtime.dll",
                                    "openvino_ir_frontend.dll"};

static const char *keys[MOST], *values[MOST];
static size_t properties;

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

#define P(i) keys[i], values[i]

static int compile(ov_core_t *core, const char *device, int index) {
    ov_model_t *model = NULL;
    ov_compiled_model_t *compiled = NULL;
    double start = seconds();
    int bad = 0;
    if (ov_core_read_model(core, "model.xml", NULL, &model))
        bad = failed(index, "read");
    else if (ov_core_compile_model(core, model, device, 2 * properties, &compiled, P(0), P(1), P(2), P(3), P(4),
                                   P(5), P(6), P(7), P(8), P(9), P(10), P(11), P(12), P(13), P(14), P(15)))
        bad = failed(index, "compile");
    else if (ov_compiled_model_export_model(compiled, "model.blob"))
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

static DWORD WINAPI end_with_input(void *unused) {
    char byte;
    DWORD got;
    (void)unused;
    while (ReadFile(GetStdHandle(STD_INPUT_HANDLE), &byte, 1, &got, NULL) && got)
        ;
    TerminateProcess(GetCurrentProcess(), 3);
    return 0;
}

int main(int count, char **words) {
    ov_core_t *core = NULL;
    int bad = 0;
    if (count < 3 || count - 3 > MOST) {
        fprintf(stderr, "usage: driver DEVICE JOBS [KEY=VALUE ...], at most %d of these\n", MOST);
        return 2;
    }
    for (int i = 3; i < count; i++) {
        char *value = strchr(words[i], '=');
        if (!value) {
            fprintf(stderr, "%s is not KEY=VALUE\n", words[i]);
            return 2;
        }
        *value++ = 0;
        keys[properties] = words[i];
        values[properties++] = value;
    }
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        LoadLibraryA(later[i]);
    printf("@heap %s\n", use_own_heap() ? "own" : "library's");
    if (ov_core_create(&core))
        return failed(-1, "start");
    if (!strcmp(words[2], "-")) {
        ov_version_t version;
        char *compiler = NULL;
        for (size_t i = 0; i < properties && !bad; i++)
            if (ov_core_set_property(core, words[1], keys[i], values[i]))
                bad = failed(-1, keys[i]);
        ov_get_openvino_version(&version);
        if (!bad && ov_core_get_property(core, words[1], "NPU_COMPILER_VERSION", &compiler))
            bad = failed(-1, "version");
        else if (!bad)
            printf("@version %s %s\n", version.buildNumber, compiler);
    } else {
        char folder[LINE], home[LINE];
        FILE *jobs = fopen(words[2], "r");
        if (!jobs || !GetCurrentDirectoryA(LINE, home)) {
            fprintf(stderr, "cannot read %s\n", words[2]);
            return 2;
        }
        CreateThread(NULL, 0, end_with_input, NULL, 0, NULL);
        for (int index = 0; read_line(jobs, folder); index++) {
            int there = SetCurrentDirectoryA(home) && SetCurrentDirectoryA(folder);
            if (there && !CreateDirectoryA("taken", NULL) && GetLastError() == ERROR_ALREADY_EXISTS)
                continue;
            printf("@begin %d\n", index);
            fflush(stdout);
            bad |= there ? compile(core, words[1], index) : failed(index, "folder");
        }
    }
    fflush(stdout);
    TerminateProcess(GetCurrentProcess(), bad); /* the plugin's own tear-down hangs under Wine */
    return bad;
}
