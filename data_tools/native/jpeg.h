// JPEG by libjpeg-turbo: encode, decode whole pictures, and find bytes that belong to no picture.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include <jpeglib.h>

#include <jerror.h>

#include "base.h"

#ifndef JCS_EXTENSIONS
#error \
    "this libjpeg lacks the RGBX colour space: libjpeg-turbo is needed (Debian: libjpeg-dev, conda-forge: libjpeg-turbo)"
#endif

namespace {

struct Survey {  // library.py: JpegSurvey
    uint64_t coefficients;  // a checksum of all of them
    uint64_t marker, skipped;
    int32_t found, in_header;
};

struct Errors {
    jpeg_error_mgr base;
    jmp_buf back;
    Code code;
    char text[JMSG_LENGTH_MAX];
    Survey* survey = nullptr;  // takes note of skipped bytes, which are an error without it
    const uint8_t* start = nullptr;
};

[[noreturn]] void give_up(j_common_ptr cinfo, Code code) {
    auto errors = reinterpret_cast<Errors*>(cinfo->err);
    errors->code = code;
    errors->base.format_message(cinfo, errors->text);
    std::longjmp(errors->back, 1);
}

[[noreturn]] void on_error(j_common_ptr cinfo) { give_up(cinfo, DAMAGED); }

// A warning (level -1) means lost or invented pixels (premature end, corrupt data), and training on them is worse than
// stopping. The first four are about the header or what follows the picture. Bytes that were skipped before a marker
// may be junk, or coded data that a corrupt stream left over: an error, except to survey(), whose caller finds out.
void on_message(j_common_ptr cinfo, int level) {
    if (level >= 0) return;
    auto errors = reinterpret_cast<Errors*>(cinfo->err);
    const int* parameters = errors->base.msg_parm.i;
    switch (errors->base.msg_code) {
        case JWRN_JFIF_MAJOR:
        case JWRN_ADOBE_XFORM:
        case JWRN_BOGUS_ICC:
        case JWRN_TOO_MUCH_DATA: return;
        case JWRN_EXTRANEOUS_DATA: break;
        case JWRN_MUST_RESYNC:
            if (parameters[0] < 0xC0) break;  // no marker that exists: junk, and what follows it is read on
            [[fallthrough]];
        default: on_error(cinfo);
    }
    if (!errors->survey) give_up(cinfo, BYTES_SKIPPED);
    auto& input = *reinterpret_cast<j_decompress_ptr>(cinfo);
    errors->survey->marker = uint64_t(input.src->next_input_byte - errors->start);
    errors->survey->skipped = errors->base.msg_code == JWRN_EXTRANEOUS_DATA ? uint64_t(parameters[0]) : 0;
    errors->survey->in_header = input.input_scan_number == 0;
    errors->survey->found++;
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

// `row` is a buffer to reuse.
Code decode_whole(Reader& reader, std::vector<uint8_t>& row, const uint8_t* data, size_t size, uint8_t* out, int width,
                  int height, Error* error) {
    jpeg_decompress_struct& cinfo = reader.cinfo;
    row.resize(std::max(row.size(), size_t(MAX_COMPONENTS) * width));
    if (setjmp(reader.errors.back)) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, reader.errors.code, reader.errors.text);
    }
    Code code = read_header(reader, data, size);
    if (int(cinfo.image_width) != width || int(cinfo.image_height) != height) {
        jpeg_abort_decompress(&cinfo);
        return fail(error, BAD_ARGUMENT, "the image has another size than its header said");
    }
    if (code == NOT_RGB) {
        read_to_the_end(cinfo, row.data());
        return fail(error, NOT_RGB, NOT_RGB_TEXT);
    }
    cinfo.out_color_space = JCS_EXT_RGB;
    jpeg_start_decompress(&cinfo);
    while (cinfo.output_scanline < cinfo.output_height) {
        JSAMPROW line = out + 3 * size_t(width) * cinfo.output_scanline;
        jpeg_read_scanlines(&cinfo, &line, 1);
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
        return fail(error, reader.errors.code, reader.errors.text);
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

// Reads all coefficients, passing over bytes that belong to no marker and no coded data. Of the places where there are
// such, `out` holds the last one.
Code survey(Reader& reader, const uint8_t* data, size_t size, uint64_t most_pixels, Survey* out, Error* error) {
    jpeg_decompress_struct& cinfo = reader.cinfo;
    *out = {};
    if (setjmp(reader.errors.back)) {
        reader.errors.survey = nullptr;
        jpeg_abort_decompress(&cinfo);
        return fail(error, DAMAGED, reader.errors.text);
    }
    reader.errors.survey = out, reader.errors.start = data;
    read_header(reader, data, size);
    if (uint64_t(cinfo.image_width) * cinfo.image_height > most_pixels) {
        reader.errors.survey = nullptr;
        jpeg_abort_decompress(&cinfo);
        return fail(error, BAD_ARGUMENT, "the image has too many pixels");
    }
    jvirt_barray_ptr* planes = jpeg_read_coefficients(&cinfo);
    for (int i = 0; i < cinfo.num_components; i++) {
        const jpeg_component_info& plane = cinfo.comp_info[i];
        JDIMENSION across = plane.h_samp_factor, down = plane.v_samp_factor;  // with the blocks that only fill up an MCU
        across = (plane.width_in_blocks + across - 1) / across * across;
        down = (plane.height_in_blocks + down - 1) / down * down;
        for (JDIMENSION y = 0; y < down; y++) {
            auto common = reinterpret_cast<j_common_ptr>(&cinfo);
            JBLOCKROW row = cinfo.mem->access_virt_barray(common, planes[i], y, 1, FALSE)[0];
            auto bytes = reinterpret_cast<const uint8_t*>(row);
            out->coefficients = out->coefficients * 31 + xxh64(bytes, across * sizeof(JBLOCK));
        }
    }
    reader.errors.survey = nullptr;
    jpeg_abort_decompress(&cinfo);
    return OK;
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
