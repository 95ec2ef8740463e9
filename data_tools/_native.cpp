// Image work that has to be fast: JPEG in and out, an antialiased resize, XXH64.
//
// Rules of this file. Nothing here knows Python: data_tools/native.py binds the extern "C" functions at the
// end by ctypes, which releases the GIL. Every entry point returns a Code and fills an Error; no exception and
// no longjmp leaves it. libjpeg reports errors by longjmp, so between a setjmp and the libjpeg calls under it
// there are only objects without destructors: buffers that grow belong to the thread's Scratch, outside.
// Loops are plain and the compiler vectorises them; FAST compiles a function once for each vector width and
// picks at load time. All arithmetic on pixels is integer, so every machine gives the same bytes.

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include <jpeglib.h>

#ifndef JCS_EXTENSIONS
#error "this libjpeg lacks the RGBX colour space: libjpeg-turbo is needed (Debian: libjpeg-dev, conda-forge: libjpeg-turbo)"
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && (defined(__clang__) ? __clang_major__ >= 17 : __GNUC__ >= 11)
#define FAST __attribute__((target_clones("default", "avx2", "arch=skylake-avx512")))
#else
#define FAST
#endif
#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Code : int32_t { OK = 0, DAMAGED = 1, NOT_RGB = 2, BAD_ARGUMENT = 3, NO_MEMORY = 4 };

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

FAST void scale_row(const uint8_t* row, unsigned weight, uint16_t* sum, int n) {
    for (int i = 0; i < n; i++) sum[i] = uint16_t(row[i] * weight);
}

FAST void add_row(const uint8_t* row, unsigned weight, uint16_t* sum, int n) {
    for (int i = 0; i < n; i++) sum[i] = uint16_t(sum[i] + row[i] * weight);
}

typedef uint16_t Pixel16 __attribute__((vector_size(8)));
typedef uint32_t Pixel32 __attribute__((vector_size(16)));

// RGBX sums of 8.8 bits to RGB bytes. A pixel is stored as four bytes, the next one overwrites the fourth; the
// caller stores the last of a row, whose fourth byte may belong to another thread's image.
template <int TAPS>
inline __attribute__((always_inline)) void squeeze(const uint16_t* row, const Axis& axis, int taps, uint8_t* out, int n) {
    const uint16_t* weight = axis.weight.data();
    for (int o = 0; o < n; o++, weight += TAPS ? TAPS : taps) {
        const uint16_t* at = row + 4 * size_t(axis.first[o]);
        Pixel32 sum = {1 << 15, 1 << 15, 1 << 15, 1 << 15};
        for (int k = 0; k < (TAPS ? TAPS : taps); k++) {
            Pixel16 pixel;
            std::memcpy(&pixel, at + 4 * k, sizeof pixel);
            sum += __builtin_convertvector(pixel, Pixel32) * uint32_t(weight[k]);
        }
        uint8_t rgbx[4] = {uint8_t(sum[0] >> 16), uint8_t(sum[1] >> 16), uint8_t(sum[2] >> 16), 0};
        std::memcpy(out + 3 * size_t(o), rgbx, o + 1 < n ? 4 : 3);
    }
}

FAST void squeeze_row(const uint16_t* row, const Axis& axis, uint8_t* out, int n) {
    switch (axis.taps) {
        case 1: return squeeze<1>(row, axis, 1, out, n);
        case 2: return squeeze<2>(row, axis, 2, out, n);
        case 3: return squeeze<3>(row, axis, 3, out, n);
        case 4: return squeeze<4>(row, axis, 4, out, n);
        default: return squeeze<0>(row, axis, axis.taps, out, n);
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
    std::vector<uint8_t> rows[2];
    std::vector<uint16_t> sum;
    int width_in, width, height;

    void plan(int height_in, int width_in_, int height_, int width_, bool flip, int row_pixels) {
        width_in = width_in_, width = width_, height = height_;
        x.plan(width_in, width, flip);
        y.plan(height_in, height, false);
        for (auto& row : rows) row.resize(4 * size_t(row_pixels));
        sum.resize(4 * size_t(width_in));
    }

    template <class Read>
    void run(Read read, int offset, uint8_t* out) {
        int have = 0;
        for (int o = 0; o < height; o++, out += 3 * size_t(width)) {
            bool started = false;
            for (int k = 0; k < y.taps; k++) {
                unsigned weight = y.weight[o * y.taps + k];
                if (!weight) continue;
                int at = y.first[o] + k;
                for (; have <= at; have++) read(have, rows[have & 1].data());
                const uint8_t* row = rows[at & 1].data() + 4 * size_t(offset);
                (started ? add_row : scale_row)(row, weight, sum.data(), 4 * width_in);
                started = true;
            }
            squeeze_row(sum.data(), x, out, width);
        }
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

// A warning (level -1) means lost or invented pixels: premature end, corrupt data. Training on them is worse
// than stopping.
void on_message(j_common_ptr cinfo, int level) {
    if (level < 0) on_error(cinfo);
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

// What one thread keeps between images.
struct Scratch {
    Reader reader;
    Resizer resizer;
};

Scratch& scratch() {
    thread_local std::unique_ptr<Scratch> mine(new Scratch);
    return *mine;
}

Code read_header(Reader& reader, const uint8_t* data, size_t size) {
    jpeg_mem_src(&reader.cinfo, data, size);
    jpeg_read_header(&reader.cinfo, TRUE);
    switch (reader.cinfo.jpeg_color_space) {
        case JCS_GRAYSCALE: case JCS_RGB: case JCS_YCbCr: return OK;
        default: return NOT_RGB;
    }
}

const char* const NOT_RGB_TEXT = "libjpeg has no conversion from this JPEG's colours to RGB";

Code decode_whole(Reader& reader, const uint8_t* data, size_t size, uint8_t* out, int width, int height, Error* error) {
    jpeg_decompress_struct& cinfo = reader.cinfo;
    if (setjmp(reader.errors.back)) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, DAMAGED, reader.errors.text);
    }
    Code code = read_header(reader, data, size);
    if (code == OK && (int(cinfo.image_width) != width || int(cinfo.image_height) != height)) code = BAD_ARGUMENT;
    if (code != OK) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, code, code == NOT_RGB ? NOT_RGB_TEXT : "the image has another size than its header said");
    }
    cinfo.out_color_space = JCS_EXT_RGB;
    jpeg_start_decompress(&cinfo);
    while (cinfo.output_scanline < cinfo.output_height) {
        JSAMPROW rows[4];
        for (int i = 0; i < 4; i++) rows[i] = out + 3 * size_t(width) * std::min<size_t>(cinfo.output_scanline + i, height - 1);
        jpeg_read_scanlines(&cinfo, rows, 4);
    }
    jpeg_finish_decompress(&cinfo);
    return OK;
}

struct Info {
    int32_t width, height, components, colours, h_samples, v_samples, progressive, restart_interval, quality;
};

// The libjpeg quality whose scaled standard table lies nearest to this image's luminance table; 0 without one.
int estimate_quality(const jpeg_decompress_struct& cinfo) {
    static const uint8_t standard[64] = {
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
        18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99};
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
    *info = {int(cinfo.image_width), int(cinfo.image_height), cinfo.num_components, cinfo.jpeg_color_space,
             luma.h_samp_factor / std::max(1, chroma.h_samp_factor), luma.v_samp_factor / std::max(1, chroma.v_samp_factor),
             cinfo.progressive_mode, int(cinfo.restart_interval), estimate_quality(cinfo)};
    jpeg_abort_decompress(&cinfo);
    return OK;
}

struct EncodeOptions {
    int32_t quality, h_samples, v_samples, optimize, restart_rows;
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
    cinfo.optimize_coding = options.optimize;
    cinfo.restart_in_rows = options.restart_rows;
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

template <class Body>
Code guarded(Error* error, Body body) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return fail(error, NO_MEMORY, "out of memory");
    }
}

}  // namespace

// ---------------------------------------------------------------------------------------------- entry points

API int32_t native_probe(const uint8_t* data, size_t size, Info* info, Error* error) {
    return guarded(error, [&] { return probe(scratch().reader, data, size, info, error); });
}

API int32_t native_decode(const uint8_t* data, size_t size, uint8_t* out, int32_t width, int32_t height, Error* error) {
    return guarded(error, [&] { return decode_whole(scratch().reader, data, size, out, width, height, error); });
}

API int32_t native_encode(const uint8_t* rgb, int32_t width, int32_t height, const EncodeOptions* options, uint8_t* out,
                          size_t capacity, size_t* size, Error* error) {
    return guarded(error, [&] { return encode(rgb, width, height, *options, out, capacity, size, error); });
}

API int32_t native_resize(const uint8_t* rgb, int32_t height_in, int32_t width_in, uint8_t* out, int32_t height, int32_t width,
                          Error* error) {
    return guarded(error, [&] {
        Resizer& resizer = scratch().resizer;
        resizer.plan(height_in, width_in, height, width, false, width_in);
        resizer.run([&](int row, uint8_t* rgbx) { widen_row(rgb + 3 * size_t(width_in) * row, rgbx, width_in); }, 0, out);
        return OK;
    });
}

API uint64_t native_checksum(const uint8_t* data, size_t size) { return xxh64(data, size); }
