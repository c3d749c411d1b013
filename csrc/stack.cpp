// All layers, the last norm and the head in one call, for short steps. What Python does between two layers would be a part of their
// time: its code was driven out of the caches by the weights of the layer before.
#include "kernels.h"

using namespace brigade;

extern "C" {
void br_stack(BrStack* s, const BrStep* step, uint8_t* const* keys, uint8_t* const* values, float* x, const int32_t* wanted, int count,
              float* logits) {
    thread_local Scratch picked, normed;
    const int64_t width = s->head.k;
    for (int64_t i = 0; i < s->count; i++) {
        if (wanted && i + 1 == s->count) {
            float* rows = (float*)picked.get(sizeof(float) * width * count);
            br_last_layer(s->layers[i], step, keys[i], values[i], x, wanted, count, rows);
            x = rows;
        } else {
            br_layer(s->layers[i], step, keys[i], values[i], x);
        }
        __atomic_fetch_add(&s->finished, 1, __ATOMIC_RELAXED);
    }
    if (s->has_norm) {
        float* rows = (float*)normed.get(sizeof(float) * width * count);
        br_norm(&s->norm, x, count, rows);
        x = rows;
    }
    br_linear(&s->head, x, count, logits);
}
}
