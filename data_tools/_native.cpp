// Image work that has to be fast: JPEG in and out, an antialiased resize, XXH64, random crops, and the threads
// that turn samples of a beton into batches.
//
// Rules of this file. Nothing here knows Python: data_tools/native.py binds the extern "C" functions at the
// end by ctypes, which releases the GIL. Every entry point returns a Code and fills an Error; no exception and
// no longjmp leaves it. libjpeg reports errors by longjmp, so between a setjmp and the libjpeg calls under it
// there are only objects without destructors: buffers that grow belong to the thread's Scratch, outside.
// Loops are plain and the compiler vectorises them; FAST compiles a function once for each vector width and
// picks at load time. Arithmetic on pixels is exact, in integers or in floats that hold whole numbers, so every
// machine with the same libjpeg-turbo gives the same bytes.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include <unistd.h>

#include <jpeglib.h>

#include <jerror.h>

#ifndef JCS_EXTENSIONS
#error \
    "this libjpeg lacks the RGBX colour space: libjpeg-turbo is needed (Debian: libjpeg-dev, conda-forge: libjpeg-turbo)"
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FAST_LEVEL "x86-64-v3"
#define FAST __attribute__((target_clones("default", "arch=" FAST_LEVEL)))
#elif defined(__x86_64__) && defined(__GLIBC__) && (!defined(__clang__) || __clang_major__ >= 17)
#define FAST_LEVEL "avx2"
#define FAST __attribute__((target_clones("default", FAST_LEVEL)))
#else
#define FAST
#endif
#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Code : int32_t { OK = 0, DAMAGED = 1, NOT_RGB = 2, BAD_ARGUMENT = 3, NO_MEMORY = 4, CUT_SHORT = 5 };

struct Error {
    char text[256];
};

Code fail(Error* error, Code code, const char* text) {
    std::snprintf(error->text, sizeof error->text, "%s", text);
    return code;
}

// ---------------------------------------------------------------------------------------------- resize

// One axis of a separable resize: output o is the sum over k of weight[o*taps + k] * input[first[o] + k], / 256.
struct Axis {
    int taps = 0;
    std::vector<int32_t> first;
    std::vector<uint16_t> weight;  // each output's sum to exactly 256, so that a flat area stays flat

    void plan(int input, int output, bool flip);
    void area(int input, int output);
    void bilinear(int input, int output);
};

// Shrinking: output o covers the inputs from o*input/output to (o+1)*input/output, the ends in part. In units of
// 1/output input all of this is whole numbers. Rounding the running sum instead of each weight keeps the total.
void Axis::area(int input, int output) {
    taps = 1;
    for (int64_t o = 0; o < output; o++)
        taps = std::max(taps, int(((o + 1) * input + output - 1) / output - o * input / output));
    weight.assign(size_t(output) * taps, 0);
    for (int64_t o = 0; o < output; o++) {
        int64_t start = o * input, end = start + input, done = 0;
        int at = int(start / output);
        first[o] = std::min(at, input - taps);
        for (int64_t from = start; from < end; at++) {
            int64_t to = std::min<int64_t>(end, int64_t(at + 1) * output);
            int64_t sum = ((to - start) * 512 + input) / (2 * input);
            weight[o * taps + (at - first[o])] = uint16_t(sum - done);
            done = sum;
            from = to;
        }
    }
}

// Enlarging: the two nearest inputs by distance between pixel centres, the edge repeated.
void Axis::bilinear(int input, int output) {
    taps = std::min(input, 2);
    weight.assign(size_t(output) * taps, 0);
    for (int64_t o = 0; o < output; o++) {
        int64_t at = std::clamp<int64_t>((2 * o + 1) * input - output, 0, int64_t(input - 1) * 2 * output);
        first[o] = int32_t(std::min<int64_t>(at / (2 * output), input - taps));
        int64_t right = ((at - int64_t(first[o]) * 2 * output) * 256 + output) / (2 * output);
        weight[o * taps] = uint16_t(256 - right);
        if (taps == 2) weight[o * taps + 1] = uint16_t(right);
    }
}

void Axis::plan(int input, int output, bool flip) {
    first.resize(output);
    if (input >= output) area(input, output);
    else bilinear(input, output);
    if (!flip) return;
    std::reverse(first.begin(), first.end());
    for (int o = 0; o < output / 2; o++)
        std::swap_ranges(&weight[o * taps], &weight[o * taps] + taps, &weight[(output - 1 - o) * taps]);
}

// Down: rows of RGBX are weighted and summed to 8.8 bits; the last step of an output row makes floats of them.
FAST void weigh(const uint8_t* row, unsigned weight, uint16_t* sum, int n) {
    for (int i = 0; i < n; i++) sum[i] = uint16_t(row[i] * weight);
}

FAST void weigh_add(const uint8_t* row, unsigned weight, uint16_t* sum, int n) {
    for (int i = 0; i < n; i++) sum[i] = uint16_t(sum[i] + row[i] * weight);
}

FAST void weigh_add_last(const uint8_t* row, unsigned weight, const uint16_t* sum, float* out, int n) {
    for (int i = 0; i < n; i++) out[i] = float(uint16_t(sum[i] + row[i] * weight));
}

FAST void weigh_only(const uint8_t* row, unsigned weight, float* out, int n) {
    for (int i = 0; i < n; i++) out[i] = float(uint16_t(row[i] * weight));
}

FAST void weigh_two(const uint8_t* a, unsigned weight_a, const uint8_t* b, unsigned weight_b, float* out, int n) {
    for (int i = 0; i < n; i++) out[i] = float(uint16_t(a[i] * weight_a + b[i] * weight_b));
}

// Across: four output pixels at a time, each a vector of its channels. The floats are whole numbers all along: a sum
// of 16 bits times weights of 8 bits fits the 24 bits of a float, so nothing is ever rounded but the result.
typedef float Pixel __attribute__((vector_size(16)));
typedef int32_t Words __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLE(bytes, ...) __builtin_shufflevector(bytes, bytes, __VA_ARGS__)
#else
#define SHUFFLE(bytes, ...) __builtin_shuffle(bytes, Bytes{__VA_ARGS__})
#endif

template <int TAPS>
inline __attribute__((always_inline)) Words weighted(const float* row, const float* weight, int taps) {
    Pixel sum = {0.5f, 0.5f, 0.5f, 0.5f};
    for (int k = 0; k < (TAPS ? TAPS : taps); k++) {
        Pixel pixel;
        std::memcpy(&pixel, row + 4 * k, sizeof pixel);
        sum += pixel * weight[k];
    }
    return __builtin_convertvector(sum, Words);
}

template <int TAPS>
inline __attribute__((always_inline)) void across(const float* row, const int32_t* first, const float* weight, int taps,
                                                  uint8_t* out, int n) {
    if (TAPS) taps = TAPS;
    for (int o = 0; o < n; o += 4, first += 4, weight += 4 * taps, out += 12) {
        Words four = weighted<TAPS>(row + first[0], weight, taps) |
                     weighted<TAPS>(row + first[1], weight + taps, taps) << 8 |
                     weighted<TAPS>(row + first[2], weight + 2 * taps, taps) << 16 |
                     weighted<TAPS>(row + first[3], weight + 3 * taps, taps) << 24;
        Bytes rgb = SHUFFLE((Bytes)four, 0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, 12, 12, 12, 12);
        std::memcpy(out, &rgb, o + 4 <= n ? 12 : 3 * (n - o));
    }
}

FAST void squeeze(const float* row, const int32_t* first, const float* weight, int taps, uint8_t* out, int n) {
    switch (taps) {
        case 1: return across<1>(row, first, weight, taps, out, n);
        case 2: return across<2>(row, first, weight, taps, out, n);
        case 3: return across<3>(row, first, weight, taps, out, n);
        case 4: return across<4>(row, first, weight, taps, out, n);
        default: return across<0>(row, first, weight, taps, out, n);
    }
}

FAST void widen_row(const uint8_t* rgb, uint8_t* rgbx, int n) {
    for (int i = 0; i < n; i++) {
        rgbx[4 * i] = rgb[3 * i];
        rgbx[4 * i + 1] = rgb[3 * i + 1];
        rgbx[4 * i + 2] = rgb[3 * i + 2];
    }
}

// Rows come in order and each is asked for once or twice, so two of them are kept. `read` fills a row of RGBX.
struct Resizer {
    Axis x, y;
    std::vector<int32_t> x_first;  // of the row's floats, with three more entries: `squeeze` works in fours
    std::vector<float> x_weight, row;
    std::vector<uint8_t> rows[2];
    std::vector<uint16_t> sum;
    int values_in, width, height;

    void plan(int height_in, int width_in, int height_, int width_, bool flip, int row_pixels) {
        values_in = 4 * width_in, width = width_, height = height_;
        x.plan(width_in, width, flip);
        y.plan(height_in, height, false);
        x_first.assign(width + 3, 0);
        x_weight.assign(size_t(width + 3) * x.taps, 0);
        for (int o = 0; o < width; o++) x_first[o] = 4 * x.first[o];
        for (int i = 0; i < width * x.taps; i++) x_weight[i] = float(x.weight[i]) / 65536;
        for (auto& each : rows) each.resize(4 * size_t(row_pixels) + 64);
        sum.resize(values_in);
        row.resize(values_in);
    }

    // libjpeg-turbo writes a row that is aligned to its vectors past the caches, and this code reads it next.
    static uint8_t* unaligned(std::vector<uint8_t>& row) {
        return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(row.data()) + 31) / 32 * 32 + 4);
    }

    template <class Read>
    void run(Read read, int offset, uint8_t* out) {
        int have = 0;
        auto input = [&](int at) {
            for (; have <= at; have++) read(have, unaligned(rows[have & 1]));
            return unaligned(rows[at & 1]) + 4 * size_t(offset);
        };
        for (int o = 0; o < height; o++, out += 3 * size_t(width)) {
            const uint16_t* weight = &y.weight[size_t(o) * y.taps];
            int first = 0, last = y.taps - 1;
            while (!weight[first]) first++;
            while (!weight[last]) last--;
            int at = y.first[o];
            if (first == last) weigh_only(input(at + first), weight[first], row.data(), values_in);
            else down(input, at, first, last, weight);
            squeeze(row.data(), x_first.data(), x_weight.data(), x.taps, out, width);
        }
    }

    template <class Input>
    void down(Input input, int at, int first, int last, const uint16_t* weight) {
        if (last == first + 1) {
            const uint8_t* above = input(at + first);
            return weigh_two(above, weight[first], input(at + last), weight[last], row.data(), values_in);
        }
        weigh(input(at + first), weight[first], sum.data(), values_in);
        for (int k = first + 1; k < last; k++) weigh_add(input(at + k), weight[k], sum.data(), values_in);
        weigh_add_last(input(at + last), weight[last], sum.data(), row.data(), values_in);
    }
};

// ---------------------------------------------------------------------------------------------- libjpeg

struct Errors {
    jpeg_error_mgr base;
    jmp_buf back;
    char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void on_error(j_common_ptr cinfo) {
    auto errors = reinterpret_cast<Errors*>(cinfo->err);
    errors->base.format_message(cinfo, errors->text);
    std::longjmp(errors->back, 1);
}

// A warning (level -1) means lost or invented pixels (premature end, corrupt data), and training on them is worse than
// stopping. These four are about the header or what follows the picture.
void on_message(j_common_ptr cinfo, int level) {
    if (level >= 0) return;
    switch (cinfo->err->msg_code) {
        case JWRN_JFIF_MAJOR:
        case JWRN_ADOBE_XFORM:
        case JWRN_BOGUS_ICC:
        case JWRN_TOO_MUCH_DATA: return;
        default: on_error(cinfo);
    }
}

void attach(Errors& errors) {
    jpeg_std_error(&errors.base);
    errors.base.error_exit = on_error;
    errors.base.emit_message = on_message;
}

struct Reader {
    jpeg_decompress_struct cinfo;
    Errors errors;
    Reader() {
        attach(errors);
        cinfo.err = &errors.base;
        if (setjmp(errors.back)) throw std::bad_alloc();
        jpeg_create_decompress(&cinfo);
    }
    ~Reader() { jpeg_destroy_decompress(&cinfo); }
};

// A JPEG that holds only a part of another; see cut_out.
struct Excerpt {
    std::vector<uint8_t> data;
    size_t size;
    int left, top, width, height;  // its place in the whole picture
};

// What one thread keeps between images.
struct Scratch {
    Reader reader;
    Resizer resizer;
    Excerpt excerpt;
    std::vector<uint8_t> stored;
};

Scratch& scratch() {
    thread_local std::unique_ptr<Scratch> mine(new Scratch);
    return *mine;
}

Code read_header(Reader& reader, const uint8_t* data, size_t size) {
    jpeg_mem_src(&reader.cinfo, data, size);
    jpeg_read_header(&reader.cinfo, TRUE);
    switch (reader.cinfo.jpeg_color_space) {
        case JCS_GRAYSCALE:
        case JCS_RGB:
        case JCS_YCbCr: return OK;
        default: return NOT_RGB;
    }
}

const char* const NOT_RGB_TEXT = "libjpeg has no conversion from this JPEG's colours to RGB";

// A picture that has no way to RGB is decoded too, to be told apart from a damaged one.
void read_to_the_end(jpeg_decompress_struct& cinfo, uint8_t* row) {
    if (cinfo.jpeg_color_space == JCS_YCCK) cinfo.out_color_space = JCS_CMYK;
    jpeg_start_decompress(&cinfo);
    while (cinfo.output_scanline < cinfo.output_height) jpeg_read_scanlines(&cinfo, &row, 1);
    jpeg_finish_decompress(&cinfo);
}

Code decode_whole(Scratch& mine, const uint8_t* data, size_t size, uint8_t* out, int width, int height, Error* error) {
    jpeg_decompress_struct& cinfo = mine.reader.cinfo;
    mine.stored.resize(std::max(mine.stored.size(), size_t(MAX_COMPONENTS) * width));
    if (setjmp(mine.reader.errors.back)) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, DAMAGED, mine.reader.errors.text);
    }
    Code code = read_header(mine.reader, data, size);
    if (int(cinfo.image_width) != width || int(cinfo.image_height) != height) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, BAD_ARGUMENT, "the image has another size than its header said");
    }
    if (code == NOT_RGB) {
        read_to_the_end(cinfo, mine.stored.data());
        return fail(error, NOT_RGB, NOT_RGB_TEXT);
    }
    cinfo.out_color_space = JCS_EXT_RGB;
    jpeg_start_decompress(&cinfo);
    while (cinfo.output_scanline < cinfo.output_height) {
        JSAMPROW row = out + 3 * size_t(width) * cinfo.output_scanline;
        jpeg_read_scanlines(&cinfo, &row, 1);
    }
    jpeg_finish_decompress(&cinfo);
    return OK;
}

struct Info {
    int32_t width, height, components, colours, h_samples, v_samples, progressive, arithmetic, restart_interval,
        quality;
};

// The libjpeg quality whose scaled standard table lies nearest to this image's luminance table; 0 without one.
int estimate_quality(const jpeg_decompress_struct& cinfo) {
    static const uint8_t standard[64] = {16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,
                                         14, 13, 16, 24, 40,  57,  69,  56,  14, 17, 22, 29, 51,  87,  80,  62,
                                         18, 22, 37, 56, 68,  109, 103, 77,  24, 35, 55, 64, 81,  104, 113, 92,
                                         49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99};
    const JQUANT_TBL* table = cinfo.quant_tbl_ptrs[0];
    int best = 0;
    long least = -1;
    for (int quality = 1; table && quality <= 100; quality++) {
        long scale = quality < 50 ? 5000 / quality : 200 - 2 * quality, distance = 0;
        for (int i = 0; i < 64; i++)
            distance += std::labs(long(table->quantval[i]) - std::clamp((standard[i] * scale + 50) / 100, 1L, 255L));
        if (least < 0 || distance <= least) least = distance, best = quality;
    }
    return best;
}

Code probe(Reader& reader, const uint8_t* data, size_t size, Info* info, Error* error) {
    jpeg_decompress_struct& cinfo = reader.cinfo;
    if (setjmp(reader.errors.back)) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, DAMAGED, reader.errors.text);
    }
    read_header(reader, data, size);
    const jpeg_component_info& luma = cinfo.comp_info[0];
    const jpeg_component_info& chroma = cinfo.comp_info[cinfo.num_components > 1 ? 1 : 0];
    *info = {int(cinfo.image_width),
             int(cinfo.image_height),
             cinfo.num_components,
             cinfo.jpeg_color_space,
             luma.h_samp_factor / std::max(1, chroma.h_samp_factor),
             luma.v_samp_factor / std::max(1, chroma.v_samp_factor),
             cinfo.progressive_mode,
             cinfo.arith_code,
             int(cinfo.restart_interval),
             estimate_quality(cinfo)};
    jpeg_abort_decompress(&cinfo);
    return OK;
}

// What part of a stored image to take, and how to turn it.
struct Crop {
    int32_t top, left, height, width, flip;
};

struct Stored {
    int32_t mode, width, height;  // as the beton's metadata says
};

enum Mode : int32_t { JPG = 0, RAW = 1 };

struct Output {
    int32_t height, width;
    uint8_t* pixels;
};

// A JPEG that restarts after every MCU (encode's `seekable`) can be cut without decoding: between two restart markers
// lies one MCU that depends on no other. What a crop needs becomes a smaller JPEG of its own.
struct Layout {  // where in the file the fields are that an excerpt changes, and where the coded data begin
    size_t frame = 0, coded = 0;
    int mcu_width = 0, mcu_height = 0;
};

inline int big_endian(const uint8_t* at) { return at[0] << 8 | at[1]; }

// False for anything but a sequential Huffman-coded picture of one scan that restarts after every MCU.
bool find_layout(const uint8_t* data, size_t size, Layout* layout) {
    bool restarts = false;
    for (size_t at = 2; at + 4 <= size && data[at] == 0xFF;) {
        int marker = data[at + 1], length = big_endian(data + at + 2);
        const uint8_t* body = data + at + 4;
        if (length < 2 || at + 2 + length > size) return false;
        if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
            if (marker > 0xC1 || layout->frame || length < 11 || length != 8 + 3 * body[5]) return false;
            layout->frame = at + 4;
            int across = 1, down = 1;  // a picture of one component is coded in single blocks
            for (int i = 0; body[5] > 1 && i < body[5]; i++)
                across = std::max(across, body[7 + 3 * i] >> 4), down = std::max(down, body[7 + 3 * i] & 15);
            layout->mcu_width = 8 * across, layout->mcu_height = 8 * down;
        }
        if (marker == 0xDD) restarts = length == 4 && big_endian(body) == 1;
        at += 2 + length;
        if (marker != 0xDA) continue;
        layout->coded = at;
        return restarts && layout->frame && length > 2 && body[0] == data[layout->frame + 5];
    }
    return false;
}

// The next marker among coded data, where a zero byte follows each 0xFF that is none.
const uint8_t* find_marker(const uint8_t* at, const uint8_t* end) {
    while (at + 1 < end && (at = static_cast<const uint8_t*>(std::memchr(at, 0xFF, size_t(end - at) - 1)))) {
        if (at[1]) return at;
        at += 2;
    }
    return nullptr;
}

// Two rows and columns more on each side give the chroma upsampling at the crop's edges its neighbours, so that the
// pixels are those of a full decode. False where the JPEG cannot be cut, also because it is damaged.
bool cut_out(const uint8_t* data, size_t size, const Stored& stored, const Crop& crop, Excerpt& out) {
    Layout layout;
    if (!find_layout(data, size, &layout)) return false;
    const uint8_t* frame = data + layout.frame;
    if (big_endian(frame + 1) != stored.height || big_endian(frame + 3) != stored.width) return false;
    int w = layout.mcu_width, h = layout.mcu_height, across = (stored.width + w - 1) / w,
        down = (stored.height + h - 1) / h;
    int first_column = std::max(0, crop.left - 2) / w,
        end_column = std::min(across, (crop.left + crop.width + 1) / w + 1);
    int first_row = std::max(0, crop.top - 2) / h, end_row = std::min(down, (crop.top + crop.height + 1) / h + 1);
    out.left = first_column * w, out.width = std::min(stored.width, end_column * w) - out.left;
    out.top = first_row * h, out.height = std::min(stored.height, end_row * h) - out.top;
    if (out.data.size() < size + 2) out.data.resize(size + 2);
    uint8_t* to = std::copy(data, data + layout.coded, out.data.data());
    uint8_t sides[4] = {uint8_t(out.height >> 8), uint8_t(out.height), uint8_t(out.width >> 8), uint8_t(out.width)};
    std::memcpy(out.data.data() + layout.frame + 1, sides, 4);
    const uint8_t *at = data + layout.coded, *end = data + size;
    int kept = 0;
    for (int i = 0; i < end_row * across; i++) {
        const uint8_t* marker = find_marker(at, end);
        if (!marker || (i + 1 < across * down && marker[1] != 0xD0 + i % 8)) return false;
        if (i / across >= first_row && i % across >= first_column && i % across < end_column) {
            if (kept) *to++ = 0xFF, *to++ = uint8_t(0xD0 + (kept - 1) % 8);
            to = std::copy(at, marker, to);
            kept++;
        }
        at = marker + 2;
    }
    *to++ = 0xFF, *to++ = 0xD9;
    out.size = size_t(to - out.data.data());
    return true;
}

// Of the rest only what the crop needs is decoded: rows above it are skipped after Huffman decoding, rows below are not
// read, and of the columns only the MCUs that it touches go through the transform.
Code decode_region(Scratch& mine, const uint8_t* data, size_t size, const Stored& stored, const Crop& crop,
                   const Output& out, Error* error) {
    jpeg_decompress_struct& cinfo = mine.reader.cinfo;
    mine.resizer.plan(crop.height, crop.width, out.height, out.width, crop.flip, stored.width);
    if (setjmp(mine.reader.errors.back)) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, DAMAGED, mine.reader.errors.text);
    }
    Code code = read_header(mine.reader, data, size);
    if (code == OK && (int(cinfo.image_width) != stored.width || int(cinfo.image_height) != stored.height))
        code = BAD_ARGUMENT;
    if (code != OK) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, code, code == NOT_RGB ? NOT_RGB_TEXT : "the JPEG has another size than the metadata says");
    }
    cinfo.out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(&cinfo);
    JDIMENSION left = std::max(0, crop.left - 2);
    JDIMENSION width = std::min(stored.width, crop.left + crop.width + 2) - left;
    if (int(width) < stored.width) jpeg_crop_scanline(&cinfo, &left, &width);
    if (crop.top) jpeg_skip_scanlines(&cinfo, crop.top);
    mine.resizer.run([&cinfo](int, uint8_t* row) { jpeg_read_scanlines(&cinfo, &row, 1); }, crop.left - int(left),
                     out.pixels);
    jpeg_abort_decompress(&cinfo);
    return OK;
}

Code decode_crop(Scratch& mine, const uint8_t* data, size_t size, const Stored& stored, const Crop& crop,
                 const Output& out, Error* error) {
    Excerpt& part = mine.excerpt;
    if (!cut_out(data, size, stored, crop, part)) return decode_region(mine, data, size, stored, crop, out, error);
    Crop inside = {crop.top - part.top, crop.left - part.left, crop.height, crop.width, crop.flip};
    return decode_region(mine, part.data.data(), part.size, {JPG, part.width, part.height}, inside, out, error);
}

Code take_raw(Scratch& mine, const uint8_t* rgb, size_t size, const Stored& stored, const Crop& crop, const Output& out,
              Error* error) {
    if (size != 3 * size_t(stored.width) * stored.height)
        return fail(error, BAD_ARGUMENT, "the raw sample has another size than the metadata says");
    mine.resizer.plan(crop.height, crop.width, out.height, out.width, crop.flip, crop.width);
    const uint8_t* first = rgb + 3 * (size_t(crop.top) * stored.width + crop.left);
    mine.resizer.run([&](int row, uint8_t* to) { widen_row(first + 3 * size_t(stored.width) * row, to, crop.width); },
                     0, out.pixels);
    return OK;
}

Code take(Scratch& mine, const uint8_t* data, size_t size, const Stored& stored, const Crop& crop, const Output& out,
          Error* error) {
    if (crop.top < 0 || crop.left < 0 || crop.height < 1 || crop.width < 1 || crop.height > stored.height - crop.top ||
        crop.width > stored.width - crop.left || out.height < 1 || out.width < 1)
        return fail(error, BAD_ARGUMENT, "the crop lies outside of the image");
    if (stored.mode == JPG) return decode_crop(mine, data, size, stored, crop, out, error);
    if (stored.mode == RAW) return take_raw(mine, data, size, stored, crop, out, error);
    return fail(error, BAD_ARGUMENT, "the sample is neither JPEG nor raw");
}

struct EncodeOptions {
    int32_t quality, h_samples, v_samples, seekable;
};

// Writes at most `capacity` bytes to `out`. libjpeg would replace a buffer that is too small by one of its own.
Code encode(const uint8_t* rgb, int width, int height, const EncodeOptions& options, uint8_t* out, size_t capacity,
            size_t* size, Error* error) {
    jpeg_compress_struct cinfo;
    Errors errors;
    unsigned char* buffer = out;
    unsigned long filled = capacity;
    attach(errors);
    cinfo.err = &errors.base;
    if (setjmp(errors.back)) {
        jpeg_destroy_compress(&cinfo);
        return fail(error, BAD_ARGUMENT, errors.text);
    }
    jpeg_create_compress(&cinfo);
    jpeg_mem_dest(&cinfo, &buffer, &filled);
    cinfo.image_width = width, cinfo.image_height = height;
    cinfo.input_components = 3, cinfo.in_color_space = JCS_EXT_RGB;
    jpeg_set_defaults(&cinfo);
    jpeg_set_quality(&cinfo, options.quality, TRUE);
    cinfo.comp_info[0].h_samp_factor = options.h_samples, cinfo.comp_info[0].v_samp_factor = options.v_samples;
    cinfo.restart_interval = options.seekable ? 1 : 0;
    jpeg_start_compress(&cinfo, TRUE);
    while (cinfo.next_scanline < cinfo.image_height) {
        JSAMPROW row = const_cast<uint8_t*>(rgb) + 3 * size_t(width) * cinfo.next_scanline;
        jpeg_write_scanlines(&cinfo, &row, 1);
    }
    jpeg_finish_compress(&cinfo);
    jpeg_destroy_compress(&cinfo);
    *size = filled;
    if (buffer == out) return OK;
    std::free(buffer);
    return fail(error, NO_MEMORY, "the JPEG is larger than the room for it");
}

// ---------------------------------------------------------------------------------------------- XXH64
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, seed 0.

constexpr uint64_t P1 = 0x9E3779B185EBCA87, P2 = 0xC2B2AE3D27D4EB4F, P3 = 0x165667B19E3779F9, P4 = 0x85EBCA77C2B2AE63,
                   P5 = 0x27D4EB2F165667C5;

inline uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }
inline uint64_t mix(uint64_t sum, uint64_t word) { return rotate(sum + word * P2, 31) * P1; }

template <class Word>
inline uint64_t load(const uint8_t* at) {  // the hash is defined on little-endian words, as is the file format
    Word word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

uint64_t xxh64(const uint8_t* at, size_t size) {
    const uint8_t* end = at + size;
    uint64_t hash = P5;
    if (size >= 32) {
        uint64_t lanes[4] = {P1 + P2, P2, 0, 0 - P1};
        for (; end - at >= 32; at += 32)
            for (int i = 0; i < 4; i++) lanes[i] = mix(lanes[i], load<uint64_t>(at + 8 * i));
        hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
        for (uint64_t lane : lanes) hash = (hash ^ mix(0, lane)) * P1 + P4;
    }
    hash += size;
    for (; end - at >= 8; at += 8) hash = rotate(hash ^ mix(0, load<uint64_t>(at)), 27) * P1 + P4;
    for (; end - at >= 4; at += 4) hash = rotate(hash ^ load<uint32_t>(at) * P1, 23) * P2 + P3;
    for (; at < end; at++) hash = rotate(hash ^ *at * P5, 11) * P1;
    hash = (hash ^ hash >> 33) * P2;
    hash = (hash ^ hash >> 29) * P3;
    return hash ^ hash >> 32;
}

// ---------------------------------------------------------------------------------------------- random crops
// Draw number n of a sample is a hash of (seed, epoch, sample, n): SplitMix64 started at a hash of the first three.
// Nothing is carried from one sample to the next, so the crop of a sample does not depend on who asks for it when.

inline uint64_t splitmix(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

struct Draws {
    uint64_t state;
    Draws(uint64_t seed, uint64_t epoch, uint64_t sample) : state(splitmix(seed + GOLDEN)) {
        state = splitmix(state ^ splitmix(epoch + 2 * GOLDEN));
        state = splitmix(state ^ splitmix(sample + 3 * GOLDEN));
    }
    double unit() { return double(splitmix(state += GOLDEN) >> 11) * 0x1p-53; }
    double between(double low, double high) { return low + unit() * (high - low); }
    int below(int n) { return std::min(int(unit() * n), n - 1); }
    static constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;
};

struct CropRule {
    uint64_t seed, epoch;
    double min_scale, max_scale, min_ratio, max_ratio;
};

// torchvision's RandomResizedCrop.get_params, then a coin for the flip.
Crop random_crop(const CropRule& rule, uint64_t sample, int width, int height) {
    Draws draws(rule.seed, rule.epoch, sample);
    int flip = draws.unit() < 0.5;
    double area = double(width) * height, low = std::log(rule.min_ratio), high = std::log(rule.max_ratio);
    for (int i = 0; i < 10; i++) {
        double target = area * draws.between(rule.min_scale, rule.max_scale);
        double ratio = std::exp(draws.between(low, high));
        int w = int(std::nearbyint(std::sqrt(target * ratio))), h = int(std::nearbyint(std::sqrt(target / ratio)));
        if (0 < w && w <= width && 0 < h && h <= height) {
            int top = draws.below(height - h + 1);
            return {top, draws.below(width - w + 1), h, w, flip};
        }
    }
    double ratio = double(width) / height;
    int w = width, h = height;
    if (ratio < rule.min_ratio) h = std::min(height, int(std::nearbyint(w / rule.min_ratio)));
    else if (ratio > rule.max_ratio) w = std::min(width, int(std::nearbyint(h * rule.max_ratio)));
    return {(height - h) / 2, (width - w) / 2, h, w, flip};
}

// Resize(int(px * 1.14)) and the centre out of it as one crop, px being the output's shorter side. An image too narrow
// for that gives the largest part of the output's shape instead of black bars.
Crop centre_crop(int width, int height, int out_height, int out_width) {
    int resized = int(std::min(out_height, out_width) * 1.14);
    double scale = double(std::min(width, height)) / std::max(1, resized);
    scale = std::min({scale, double(width) / out_width, double(height) / out_height});
    int h = std::max(1, int(std::nearbyint(out_height * scale))),
        w = std::max(1, int(std::nearbyint(out_width * scale)));
    return {(height - h) / 2, (width - w) / 2, h, w, 0};
}

// ---------------------------------------------------------------------------------------------- batches

struct Task {  // one sample of a batch; data_tools/native.py has the same as a numpy dtype
    uint64_t at, size, checksum;
    Stored stored;
    Crop crop;
};

struct Batch {  // belongs to Python, which keeps it and all it points to until it is finished or cancelled
    const Task* tasks;
    uint8_t* out;
    int32_t file, samples, height, width, verify;
    int32_t taken, finished;  // under the pool's lock, as is what follows
    int32_t failed, code;     // the first sample that failed, or -1
    Error error;
};

Code read_fully(int file, uint8_t* out, size_t size, uint64_t at, Error* error) {
    // pread and not a memory map: a file that shrinks or a disk that fails is then an error and not a signal.
    while (size) {
        ssize_t got = pread(file, out, std::min<size_t>(size, 1 << 30), off_t(at));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail(error, CUT_SHORT, std::strerror(errno));
        if (got == 0) return fail(error, CUT_SHORT, "the file ends before the sample does");
        out += got, at += got, size -= got;
    }
    return OK;
}

Code load_sample(const Batch& batch, int i, Error* error) {
    const Task& task = batch.tasks[i];
    Output out = {batch.height, batch.width, batch.out + 3 * size_t(batch.height) * batch.width * i};
    Scratch& mine = scratch();
    if (mine.stored.size() < task.size) mine.stored.resize(task.size);
    Code code = read_fully(batch.file, mine.stored.data(), task.size, task.at, error);
    if (code != OK) return code;
    if (batch.verify && xxh64(mine.stored.data(), task.size) != task.checksum)
        return fail(error, DAMAGED, "its bytes are not those that were written (checksum)");
    return take(mine, mine.stored.data(), task.size, task.stored, task.crop, out, error);
}

template <class Body>
Code guarded(Error* error, Body body) {
    try {
        return body();
    } catch (const std::exception&) {
        return fail(error, NO_MEMORY, "out of memory");
    }
}

// Threads that work through batches, image by image, in the order of submission. No thread waits for a batch to end
// before it begins the next, so a slow image at the end of a batch costs nothing.
class Pool {
public:
    explicit Pool(int threads) {
        try {
            for (int i = 0; i < threads; i++) workers.emplace_back([this] { work(); });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }

    void submit(Batch* batch) {
        std::lock_guard<std::mutex> hold(lock);
        batch->taken = batch->finished = 0, batch->failed = -1, batch->code = OK;
        waiting.push_back(batch);
        to_do.notify_all();
    }

    bool wait(const Batch* batch, int milliseconds) {
        std::unique_lock<std::mutex> hold(lock);
        return done.wait_for(hold, std::chrono::milliseconds(milliseconds),
                             [&] { return batch->finished == batch->samples; });
    }

    void cancel(Batch* batch) {  // on return no thread touches the batch
        std::unique_lock<std::mutex> hold(lock);
        waiting.erase(std::remove(waiting.begin(), waiting.end(), batch), waiting.end());
        batch->samples = batch->taken;
        done.wait(hold, [&] { return batch->finished == batch->samples; });
    }

private:
    std::mutex lock;
    std::condition_variable to_do, done;
    std::deque<Batch*> waiting;  // batches with samples that nobody has taken
    std::vector<std::thread> workers;
    bool stopping = false;

    void work() {
        std::unique_lock<std::mutex> hold(lock);
        while (true) {
            to_do.wait(hold, [this] { return stopping || !waiting.empty(); });
            if (stopping) return;
            Batch* batch = waiting.front();
            int i = batch->taken++;
            if (batch->taken == batch->samples) waiting.pop_front();
            hold.unlock();
            Error error;
            Code code = guarded(&error, [&] { return load_sample(*batch, i, &error); });
            hold.lock();
            if (code != OK && (batch->failed < 0 || i < batch->failed))
                batch->failed = i, batch->code = code, batch->error = error;
            if (++batch->finished == batch->samples) done.notify_all();
        }
    }

    void stop() {
        {
            std::lock_guard<std::mutex> hold(lock);
            stopping = true;
        }
        to_do.notify_all();
        for (auto& worker : workers) worker.join();
    }
};

}  // namespace

// ---------------------------------------------------------------------------------------------- entry points

API int32_t native_probe(const uint8_t* data, size_t size, Info* info, Error* error) {
    return guarded(error, [&] { return probe(scratch().reader, data, size, info, error); });
}

API int32_t native_decode(const uint8_t* data, size_t size, uint8_t* out, int32_t width, int32_t height, Error* error) {
    return guarded(error, [&] { return decode_whole(scratch(), data, size, out, width, height, error); });
}

API int32_t native_encode(const uint8_t* rgb, int32_t width, int32_t height, const EncodeOptions* options, uint8_t* out,
                          size_t capacity, size_t* size, Error* error) {
    return guarded(error, [&] { return encode(rgb, width, height, *options, out, capacity, size, error); });
}

API int32_t native_resize(const uint8_t* rgb, int32_t height_in, int32_t width_in, uint8_t* out, int32_t height,
                          int32_t width, Error* error) {
    return guarded(error, [&] {
        Resizer& resizer = scratch().resizer;
        resizer.plan(height_in, width_in, height, width, false, width_in);
        resizer.run([&](int row, uint8_t* rgbx) { widen_row(rgb + 3 * size_t(width_in) * row, rgbx, width_in); }, 0,
                    out);
        return OK;
    });
}

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
API const char* native_libjpeg_version() { return "libjpeg-turbo " TEXT(LIBJPEG_TURBO_VERSION); }

// Which clone of the FAST functions runs on this processor: the question that their resolver asks, too.
API const char* native_vectors() {
#if defined(FAST_LEVEL)
    __builtin_cpu_init();
    return __builtin_cpu_supports(FAST_LEVEL) ? "AVX2" : "baseline";
#elif defined(__ARM_NEON)
    return "NEON";
#else
    return "baseline";
#endif
}

API uint64_t native_checksum(const uint8_t* data, size_t size) { return xxh64(data, size); }

API void native_crops(const CropRule* rule, const int64_t* samples, const int32_t* widths, const int32_t* heights,
                      int64_t n, Crop* out) {
    for (int64_t i = 0; i < n; i++) out[i] = random_crop(*rule, uint64_t(samples[i]), widths[i], heights[i]);
}

API void native_centre_crops(const int32_t* widths, const int32_t* heights, int64_t n, int32_t out_height,
                             int32_t out_width, Crop* out) {
    for (int64_t i = 0; i < n; i++) out[i] = centre_crop(widths[i], heights[i], out_height, out_width);
}

// One sample that is in memory, for numba: the outcome is a number alone. Without a rule the crop is the centre.
API int32_t native_take(const uint8_t* data, size_t size, int32_t mode, int32_t width, int32_t height,
                        const CropRule* rule, int64_t sample, uint8_t* out, int32_t out_height, int32_t out_width) {
    Error error;
    return guarded(&error, [&] {
        Crop crop = rule ? random_crop(*rule, uint64_t(sample), width, height)
                         : centre_crop(width, height, out_height, out_width);
        return take(scratch(), data, size, {mode, width, height}, crop, {out_height, out_width, out}, &error);
    });
}

API Pool* native_pool_new(int32_t threads) {
    try {
        return new Pool(threads);
    } catch (const std::exception&) {  // the system gives no more threads, or no memory
        return nullptr;
    }
}

API void native_pool_delete(Pool* pool) { delete pool; }
API void native_pool_submit(Pool* pool, Batch* batch) { pool->submit(batch); }
API int32_t native_pool_wait(Pool* pool, const Batch* batch, int32_t milliseconds) {
    return pool->wait(batch, milliseconds);
}
API void native_pool_cancel(Pool* pool, Batch* batch) { pool->cancel(batch); }

// The same work as the pool's in the calling thread and nothing around it: what a loader can be measured against.
API int32_t native_loop(const Batch* batch, Error* error) {
    return guarded(error, [&] {
        for (int i = 0; i < batch->samples; i++) {
            Code code = load_sample(*batch, i, error);
            if (code != OK) return code;
        }
        return OK;
    });
}
