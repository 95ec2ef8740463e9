// JPEG by libjpeg-turbo: encode, decode whole pictures or only what a crop needs; and crops of raw samples.
#pragma once

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

#include <jerror.h>

#include "base.h"
#include "resize.h"

#ifndef JCS_EXTENSIONS
#error \
    "this libjpeg lacks the RGBX colour space: libjpeg-turbo is needed (Debian: libjpeg-dev, conda-forge: libjpeg-turbo)"
#endif

namespace {

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
    int left, top, width, height;  // its position in the whole picture
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

// Decodes also a picture that cannot become RGB, to tell it from a damaged one.
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

// The next marker in coded data, where a zero byte follows each 0xFF that is not a marker.
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

// Decodes only what the crop needs: rows above it are skipped after Huffman decoding, rows below are not read, and only
// the MCUs of its columns go through the transform.
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

Code load_crop(Scratch& mine, const uint8_t* data, size_t size, const Stored& stored, const Crop& crop, const Output& out,
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

}  // namespace
