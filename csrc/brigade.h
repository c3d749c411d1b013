// The C interface of Brigade's CPU kernels: plain structs and raw pointers, called through ctypes.
//
// Letters: T rows (tokens), K summed axis, N outputs, H width of the residual stream, D head dimension.
// One rule holds everywhere: row t of a result depends on row t of the arguments alone, bit for bit. Calls read what describes a
// model and never write to it (but for `BrStack::finished`), so any number of threads may compute with one model, each with a cache of
// its own.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

enum BrKind : int32_t { BR_F32 = 0, BR_BF16 = 1, BR_I8 = 2, BR_W8 = 3, BR_W4 = 4, BR_W4A8 = 5 };
enum BrActivation : int32_t { BR_NONE = 0, BR_GELU = 1, BR_GELU_TANH = 2, BR_RELU = 3, BR_SILU = 4 };
constexpr int32_t BR_NO_RUN = INT32_MAX;
enum BrNormKind : int32_t { BR_RMSNORM = 0, BR_LAYERNORM = 1 };

// What is read after a product: threads that have nothing to do fetch it. Addresses alone; nothing is read through them. Of each
// entry `runs` runs of `bytes`, `stride` apart.
struct BrAhead {
    const uint8_t* data[8];
    int64_t bytes[8], stride[8], runs[8], count;
};

// A weight matrix [N, K], packed in panels of 32 outputs. K is cut into `blocks` equal blocks (the reduction tree's leaves),
// each filled with zeros to `block_k`. A panel is a run of tiles of 16 lines of 64 bytes; a line holds 16 outputs.
//
// A part of a matrix may lie in the whole one: panels of `data` (and of W4's `scale`) are `panel_stride` apart, of which a part along K
// takes a run out of each, and between up to three runs of panels lie others. `panel_data` and `panel_scales` (path.h) find a panel.
struct BrMatrix {
    int32_t kind, n, k, blocks, block_k, group;
    int32_t gated;          // panels hold 16 gate columns, then 16 up columns
    int32_t activation;     // applied to the product (after the bias) when the matrix is an MLP's first one
    int32_t second, third;  // the panels that the second and the third run begin with; BR_NO_RUN where there is none
    int32_t to_second, to_third;            // how many panels of the whole matrix are left out before each of them
    int64_t panel_stride, scale_stride;     // bytes of `data`; of W4 floats of `scale`
    const uint8_t* data;
    const float* scale;     // I8, W8, W4A8: [padded n]; W4: [padded n / 32, groups, 32]
    const int32_t* colsum;  // I8, W4A8: [padded n], the sum of every column
    const float* bias;      // [padded n], or null
    const BrAhead* ahead;   // or null
};

// Keys of a matrix's places, for `br_sum` (brigade/backends/sums.py). Along K its numbers stand in words of 32 bits, of which a panel has
// `steps` for each column. A pass takes what `mask` leaves of a word after `shift`.
struct BrKeys {
    const uint64_t* words;    // [passes, steps]
    const int32_t* shift;     // [passes]
    const uint64_t* scales;   // of quantised kinds: [groups] of W4, else [1]
    const uint64_t* times;    // W4A8: [groups]
    const uint64_t* columns;  // [padded n]; 0: a column that is not counted
    int64_t steps;
    int32_t passes;
    uint32_t mask;
};

struct BrNorm {
    int32_t kind, size;
    float eps;
    int32_t pad;
    const float* weight;  // with the family's offset added; null: ones
    const float* bias;
};

struct BrAttention {
    int32_t heads, kv_heads, dim, window;  // window 0: none
    float scale, softcap, clip;            // softcap 0, clip 0: none
    int32_t rotary;                        // channels / 2 that are turned; 0: none
    int32_t interleaved, norm_heads;
    const float *cos, *sin;  // [positions, rotary]
    const BrNorm *q_norm, *k_norm;
};

// One step, the same for all layers.
struct BrStep {
    int32_t rows, spans, block_size, kv_bf16;
    const int32_t* positions;   // [rows]
    const int32_t* span_row;    // [spans + 1], first row of each span
    const int32_t* span_table;  // [spans], where its blocks begin in `blocks`
    const int32_t* blocks;
};

// What the ranks that share a layer's matrices say to each other. All of them make the same calls in the same order; every result is
// a function of the ranks' numbers alone. Returns 0, or another number where a rank is gone: then the step is lost.
struct BrExchange {
    int32_t rank, size;
    void* state;
    // The sum of all ranks' parts, in place: the upper levels of the tree, neighbours first. `whole`: int32 numbers, else float32.
    int32_t (*tree)(void* state, void* part, int64_t rows, int64_t width, int32_t whole);
    // The greatest of all ranks' float32 numbers, in place. None is below 0; NaN is above all others.
    int32_t (*maximum)(void* state, float* most, int64_t count);
};

struct BrLayer {
    BrNorm attention_norm, mlp_norm, attention_post, mlp_post;
    int32_t has_attention_post, has_mlp_post, norm_after, parallel, has_mlp, pad;
    BrAttention attention;
    BrMatrix qkv, out, up, down;
    const BrExchange* exchange;  // of the ranks among whom `out` and `down` are cut along K; null: they are whole
};

// All that follows the embedding, where no other rank and nothing in Python takes part.
struct BrStack {
    const BrLayer* const* layers;
    int64_t count;
    BrNorm norm;  // before the head, if `has_norm`
    BrMatrix head;
    int64_t has_norm;
    int64_t finished;  // one more for each layer: the only thing that a call changes here, while others look
};

// Shared memory between the ranks of one host (exchange.cpp).
enum BrRankState : int32_t { BR_WAITING = 3 };  // of brigade/parallel/board.py

// A number that only grows, and how many processes sleep until it does. On a cache line of its own.
struct BrCounter {
    uint32_t value, sleepers, pad[14];
};

// How a rank waits for others.
struct BrWait {
    const int32_t* stop;  // shared; not 0: nobody may wait any longer
    int32_t* state;       // shared: what this rank does, as those see it who watch
    int64_t spins;        // how often it looks before it sleeps; 0 where ranks have no cores of their own
    double seconds;       // waited so far
};

// A rank's end of its group's slots: every rank has two, used in turn. All fields but those of the caller's choice begin with 0.
struct BrSlots {
    int32_t rank, size;
    int64_t slot_bytes;  // a multiple of 64
    BrCounter* arrived;  // shared: one more for each rank that has filled its slot
    uint8_t* data;       // shared: [2, size, slot_bytes]
    BrWait wait;
    int64_t calls, bytes;
    double seconds;  // in calls, waiting included
    uint32_t turn, pad;
};

// One end of a stream of bytes. The capacity is a power of two.
struct BrRing {
    uint8_t* data;
    int64_t capacity;
    BrCounter *written, *read;
    BrWait wait;
};

struct BrDraw {
    uint64_t bits;
    double top_p;
    int64_t top_k;
    float temperature, min_p;
};

const char* br_describe(void);            // what this processor can do and what is used
int br_choose_path(const char* name);     // 0 if taken; "" chooses the best
const char* br_path(void);
const char* br_bf16_name(void);            // decides the bits of bf16 products
const char* br_bf16_of(const char* path);  // the same of a path that need not be in force; null if the processor lacks it
int br_threads(int count, int first_cpu);    // size of the pool; first_cpu >= 0 pins from there on. Returns how many there could be
int br_pin(const int32_t* cpus, int count);  // one thread a processor; the caller, who works too, is left where it is
int br_pool_size(void);
void br_wake(void);  // the pool's threads, since a step begins

// `count` stretches of `length` bytes, from these bytes of an open file on, one after the other into memory. Returns how many bytes were
// read, which are fewer where the file ends; or an error's number below 0.
int64_t br_read(int file, const int64_t* starts, int64_t count, int64_t length, uint8_t* into);
enum BrStored : int32_t { BR_FLOAT32 = 0, BR_BFLOAT16 = 1, BR_FLOAT16 = 2 };
// Numbers [rows, columns] of a file, of the kind `kind`, as float32 or (`is_half`) bfloat16, row-major; `is_turned`: they come column
// after column. `to` is null where they would come out as they are. Returns whether all are finite then.
int br_hold(const void* from, int kind, void* to, int is_half, int64_t rows, int64_t columns, int is_turned);
void br_pack_size(const BrMatrix* m, int64_t* data_bytes, int64_t* scale_floats);
void br_lay(BrMatrix* m);  // the strides of a matrix that lies by itself
// Of each column what the scale of the whole column is made from: its greatest number without its sign, of W4A8 the greatest of its
// groups' best scales, `best` [padded n, groups]. For ranks that hold parts of a column; the greatest of all ranks' goes into br_pack.
void br_column_most(const BrMatrix* m, const void* weight, int is_half, float* most, float* best);
// weight [N, K] row-major, float32 or (`is_half`) bfloat16. `most`, `best`: as br_column_most gave them; null where the columns are whole.
void br_pack(BrMatrix* m, const void* weight, int is_half, uint8_t* data, float* scale, int32_t* colsum, const float* most,
             const float* best);
void br_unpack(const BrMatrix* m, float* weight);
// A part of a matrix, packed as it would be by itself: `to` says how large it is and where it will lie. columns[c]: the padded column of
// `from` for each of `to`, or below 0 for filling. Of K the blocks from `first_block` on.
void br_cut(const BrMatrix* from, BrMatrix* to, const int32_t* columns, int first_block);
// The sum of a matrix's numbers and scales, each times its keys; and of a row-major table of words, whose keys along a row come in halves.
uint64_t br_sum(const BrMatrix* m, const BrKeys* keys);
uint64_t br_sum_rows(const uint32_t* words, int64_t rows, int64_t count, const uint32_t* low_keys, const uint32_t* high_keys,
                     const uint64_t* row_keys);
void br_column_sums(const BrMatrix* m, int32_t* sums);  // what `colsum` holds, of I8 and W4A8
// CRC-32C of `runs` runs of `bytes`, `stride` apart, as if they were one.
uint32_t br_checksum(const uint8_t* data, int64_t bytes, int64_t stride, int64_t runs);
uint32_t br_checksum_by_tables(const uint8_t* data, int64_t bytes);  // where the processor has no instruction for it

void br_linear(const BrMatrix* m, const float* x, int rows, float* out);
// The same of a matrix cut along K, in three steps: each row's greatest number without its sign (int8 alone); the sums of this rank's
// blocks, float32 [rows, n] or int32 of int8, with each row's scale [rows] (of int8, but never null); and from the sums of all ranks
// the product. `most`: of whole rows, or null for that of `x`.
void br_row_most(const float* x, int rows, int width, float* most);
void br_linear_part(const BrMatrix* m, const float* x, int rows, const float* most, void* part, float* row_scale);
void br_finish(const BrMatrix* m, const void* whole, const float* row_scale, int rows, float* out);
void br_norm(const BrNorm* norm, const float* x, int rows, float* out);
void br_rotate(float* x, int rows, int heads, int dim, const int32_t* positions, const float* cos, const float* sin, int rotary,
               int interleaved);
void br_activate(int kind, const float* x, int64_t count, float* out);
void br_softcap(float* x, int64_t count, float cap);
void br_softmax(const float* x, int rows, int width, float* out);
// `keys` and `values`: the layer's part of the caller's cache.
void br_attend(const BrAttention* a, const BrStep* s, uint8_t* keys, uint8_t* values, const float* q, const float* k, const float* v,
               float* out);
// x [rows, H], in place. Returns 0, or what the exchange returned: then the step is lost.
int32_t br_layer(const BrLayer* layer, const BrStep* step, uint8_t* keys, uint8_t* values, float* x);
// Of rows that nothing reads afterwards only keys and values are made. `wanted` [count] in order, out [count, H].
int32_t br_last_layer(const BrLayer* layer, const BrStep* step, uint8_t* keys, uint8_t* values, const float* x, const int32_t* wanted,
                      int count, float* out);
// x [rows, H], which is changed; `keys` and `values`: for each layer its part of the cache. Logits [count, head.n] of the rows `wanted`
// [count], in order; null: of all.
void br_stack(BrStack* stack, const BrStep* step, uint8_t* const* keys, uint8_t* const* values, float* x, const int32_t* wanted, int count,
              float* logits);
// The lowest id of each row's greatest logit, and that logit; of a row with a NaN the first NaN. Returns how many of these are not finite.
int br_best(const float* logits, int rows, int width, int64_t* tokens, float* greatest);
// Rows of logits to weights, and each row's total mass; `weights` may be null.
void br_weigh(const float* logits, int rows, int width, const float* greatest, const float* temperature, float* weights, int64_t* totals);
// One token a row. `bits`: the row's uniform number, in units of 2^-53. top_k 0, top_p 1 and min_p 0 are off.
void br_draw(const float* logits, int rows, int width, const float* greatest, const BrDraw* draws, int64_t* tokens);
// `onto`: added to what is in out.
void br_embed(const uint16_t* table_bf16, const float* table_f32, int width, const int64_t* ids, int rows, int onto, float* out);
// Makes an exchange of slots; not 0 where this system or this number of ranks (2, 4, 8) cannot.
int br_slots_attach(BrSlots* slots, BrExchange* exchange);
// Every rank gives `bytes`; who gives `all` [size, bytes] reads those of all ranks. Not 0 where a rank is gone.
int br_slots_gather(const BrExchange* exchange, const void* mine, int64_t bytes, void* all);
// The bytes that were moved: fewer than asked where a signal came in between, after which the caller goes on; -1 where a rank is gone.
int64_t br_ring_send(BrRing* ring, const void* data, int64_t bytes);
int64_t br_ring_receive(BrRing* ring, void* data, int64_t bytes);
// What the path in force can do at most, over about `seconds`: multiply-adds a second of BR_F32, BR_BF16 or BR_I8, of all threads
// together; and cycles a second of each.
double br_peak(int kind, int threads, double seconds);
double br_clock(int threads, double seconds);
double br_read_bandwidth(const uint8_t* data, int64_t bytes);  // seconds to read it once with the pool
}
