// Crops of stored samples, in batches: of a JPEG only what the crop needs is decoded; raw samples are read in place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "base.h"
#include "crops.h"
#include "jpeg.h"
#include "resize.h"
#include "work.h"

namespace {

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
    std::vector<uint8_t> stored, row;
};

Scratch& scratch() {
    thread_local std::unique_ptr<Scratch> mine(new Scratch);
    return *mine;
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

struct Task {  // a sample of a batch to load; library.py: TASK
    uint64_t at, size, checksum;
    Stored stored;
    Crop crop;
};

struct Batch : Work {  // library.py: BatchRequest
    const Task* tasks;
    uint8_t* out;
    int32_t file, height, width, verify;
};

Code load_sample(const Batch& batch, int i, Error* error) {
    const Task& task = batch.tasks[i];
    Output out = {batch.height, batch.width, batch.out + 3 * size_t(batch.height) * batch.width * i};
    Scratch& mine = scratch();
    if (mine.stored.size() < task.size) mine.stored.resize(task.size);
    Code code = read_fully(batch.file, mine.stored.data(), task.size, task.at, error);
    if (code != OK) return code;
    if (batch.verify && xxh64(mine.stored.data(), task.size) != task.checksum)
        return fail(error, DAMAGED, "its bytes are not those that were written (checksum)");
    return load_crop(mine, mine.stored.data(), task.size, task.stored, task.crop, out, error);
}

}  // namespace
