// What fills the panels of a packed matrix, and what belongs to a whole column of it.
#pragma once
#include "kernels.h"

namespace brigade {
struct SourceRows {  // [N, K] row-major, of float32 or of bfloat16
    const void* data;
    bool is_half;
    int64_t k;
};
struct ColumnScales {  // as br_column_most gives them, of whole columns; null: the rows hold whole columns
    const float* most;
    const float* best;
};
struct PackedArrays {
    uint8_t* data;
    float* scale;
    int32_t* colsum;
};

int64_t panel_bytes(const BrMatrix& m);
int64_t groups_of(const BrMatrix& m);
int source_row(const BrMatrix& m, int n);  // the source row of padded column n, or -1
float column_most(const BrMatrix& m, const SourceRows& from, int64_t row, float* best);
void fill_panel(const BrMatrix& m, const SourceRows& from, const ColumnScales& known, const PackedArrays& to, int64_t panel);
}  // namespace brigade
