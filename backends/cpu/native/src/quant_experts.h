// Rows times the compressed weights of their experts: rows are put side by side by expert, multiplied panel by panel, and
// the results put back.
#pragma once

#include "experts.h"
#include "quant_gemm.h"

namespace forgec {

template <class V, Code code>
void expert_compressed(const void* params, Context& context) {
  const QuantExperts& p = *static_cast<const QuantExperts*>(params);
  const Experts& e = p.experts;
  int32_t* starts = e.starts(context.thread);
  int32_t* order = e.order(context.thread);
  if (!sort_rows(e, context, starts, order)) return;
  int64_t begin, end;
  context.share(e.rows, 1, &begin, &end);
  for (int64_t i = begin; i < end; ++i) {
    std::memcpy(p.rows + i * e.k, e.x + order[i] * e.x_row, static_cast<size_t>(e.k) * sizeof(float));
  }
  context.barrier();
  const int64_t panels = e.n / kCodePanel;
  share_parts(e, context, starts, panels, [&](int64_t expert, int64_t first, int64_t last) {
    QuantGemm q = p.quant;
    q.codes += expert * panels * panel_bytes(code, e.k);
    if (q.scales != nullptr) q.scales += expert * panels * q.scale_panel;
    constexpr int most = Codes<V>::thin_rows;
    for (int64_t panel = first; panel < last; ++panel) {
      for (int64_t row = starts[expert]; row < starts[expert + 1]; row += most) {
        const int64_t rows = starts[expert + 1] - row < most ? starts[expert + 1] - row : most;
        thin_rows<V, code, most>(q, rows, row, panel);
      }
    }
  });
  context.barrier();
  for (int64_t i = begin; i < end; ++i) {
    std::memcpy(e.y + order[i] * e.n, p.quant.gemm.c + i * e.n, static_cast<size_t>(e.n) * sizeof(float));
  }
}

}  // namespace forgec
