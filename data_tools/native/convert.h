// Images of a source, read, decoded, resized and encoded: for each image the bytes of every size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <unistd.h>
#include <vector>

#include "base.h"
#include "jpeg.h"
#include "jpeg_crops.h"
#include "resize.h"
#include "work.h"

namespace {

struct Source {  // where an image's bytes are: in memory, in a file by name, or in an open file; library.py: SOURCE
    const uint8_t* data;
    const char* path;
    uint64_t at, size;
    int32_t file, as_pixels;
};

struct StoreOptions {  // library.py: StoreOptions
    const int32_t* caps;         // 0: as large as it is
    const uint64_t* page_bytes;  // what a sample of each output may take at most
    uint64_t most_pixels;
    int32_t outputs, longer, lanczos, quality, seekable, keep, most_side;
};

#pragma pack(push, 1)
struct Record {  // of one output of an image; library.py: RECORD
    uint8_t mode, kept;
    uint16_t width, height;
    uint32_t size;
    uint64_t checksum;
};
#pragma pack(pop)

struct Conversion : Work {  // owned by Python, as a Batch is; library.py: ConversionRequest
    const Source* sources;
    const StoreOptions* options;
    Record* records;   // by image and output
    uint8_t** stored;  // by image: its outputs one after another, for native_free
    int32_t* codes;    // by image: OK, or why this code cannot store it
};

const int HALVED_BELOW = 160;  // by area, caps up to this are made from the 320 px image; measured safe, 56 dB
const int HALVED_FROM = 320;

// Memory that grows and is not cleared: what is never touched takes no room.
struct Buffer {
    std::unique_ptr<uint8_t[]> bytes;
    size_t capacity = 0;
    uint8_t* room(size_t size) {
        if (size > capacity) bytes.reset(), bytes.reset(new uint8_t[size]), capacity = size;
        return bytes.get();
    }
};

struct Picture {
    const uint8_t* rgb = nullptr;
    int width = 0, height = 0;
    size_t size() const { return 3 * size_t(width) * height; }
};

// What one thread keeps between images.
struct Workshop {
    Buffer decoded, half, resized, encoded;
    LanczosResizer lanczos;
    std::vector<uint8_t> stored;
};

Workshop& workshop() {
    thread_local Workshop mine;
    return mine;
}

// Whether stock FFCV reads these bytes as they are: a baseline or progressive JPEG, grey or of three channels.
bool is_plain(const uint8_t* data, size_t size) {
    for (size_t at = 2; at + 4 <= size && data[at] == 0xFF;) {
        int marker = data[at + 1];
        if (marker == 0xFF) {  // a fill byte
            at++;
            continue;
        }
        if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC)
            return marker <= 0xC2 && at + 9 < size && data[at + 4] == 8 && (data[at + 9] == 1 || data[at + 9] == 3);
        at += 2 + big_endian(data + at + 2);
    }
    return false;
}

// The picture with its shorter or longer side at most `cap`, downwards only; from `from`, which is `whole` or made of it.
Picture capped(Scratch& mine, Workshop& shop, const Picture& whole, const Picture& from, int cap,
               const StoreOptions& options, Buffer& room) {
    const bool longer = options.longer;
    int64_t small = std::min(whole.width, whole.height), large = std::max(whole.width, whole.height);
    if ((longer ? large : small) <= cap) return from;
    if (longer) small = std::max<int64_t>(1, small * cap / large), large = cap;
    else large = std::max<int64_t>(1, large * cap / small), small = cap;
    bool upright = whole.height > whole.width;
    Picture out;
    out.width = int(upright ? small : large), out.height = int(upright ? large : small);
    uint8_t* rgb = room.room(out.size());
    out.rgb = rgb;
    if (options.lanczos) {
        shop.lanczos.run(from.rgb, from.height, from.width, out.height, out.width, rgb);
        return out;
    }
    mine.resizer.plan(from.height, from.width, out.height, out.width, false, from.width);
    mine.resizer.run(
        [&](int row, uint8_t* rgbx) { widen_row(from.rgb + 3 * size_t(from.width) * row, rgbx, from.width); }, 0, rgb);
    return out;
}

// One output of an image: `data` holds the file's own bytes if they are a plain JPEG, else null.
Code store_one(Workshop& shop, const Picture& picture, const uint8_t* data, size_t size, bool as_pixels, int output,
               const StoreOptions& options, Record* record, Error* error) {
    const uint64_t room = options.page_bytes[output];
    const bool full = options.caps[output] == 0;
    const uint8_t* bytes = picture.rgb;
    *record = {JPG, 0, uint16_t(picture.width), uint16_t(picture.height), 0, 0};
    size_t length = picture.size();
    if (full && data && options.keep && !as_pixels && size <= room) {
        bytes = data, length = size, record->kept = 1;
    } else if (as_pixels && length <= room) {  // a sample must fit a page
        record->mode = RAW;
    } else {
        // At full size, where the crop is most of the picture, the markers gain too little (benchmarks/results/loading.md).
        EncodeOptions how = {options.quality, 2, 2, options.seekable && !full};
        size_t most = 6 * size_t(picture.height + 31) * (picture.width + 31) + 4096;  // TurboJPEG's bound, with a margin
        uint8_t* encoded = shop.encoded.room(most);
        Code code = encode(picture.rgb, picture.width, picture.height, how, encoded, most, &length, error);
        if (code != OK) return code;
        bytes = encoded;
        // Pages are at least as large as the largest file.
        if (length > room && full && data && size <= room) bytes = data, length = size, record->kept = 1;
    }
    record->size = uint32_t(length);
    if (length > room) return TOO_LARGE;
    record->checksum = xxh64(bytes, length);
    shop.stored.insert(shop.stored.end(), bytes, bytes + length);
    return OK;
}

// All outputs of a decoded image; their bytes go to `shop.stored`, one after another.
Code store(Scratch& mine, Workshop& shop, const Picture& whole, const uint8_t* data, size_t size, bool as_pixels,
           const StoreOptions& options, Record* records, Error* error) {
    shop.stored.clear();
    Picture half;  // made whether or not it is an output too, so that a beton does not depend on the others
    auto make = [&](const Picture& from, int cap, Buffer& room) {
        return capped(mine, shop, whole, from, cap, options, room);
    };
    for (int output = 0; output < options.outputs; output++) {
        int cap = options.caps[output];
        Picture picture = whole;
        if (cap && cap <= HALVED_FROM && !options.lanczos) {
            if (!half.rgb) half = make(whole, HALVED_FROM, shop.half);
            picture = cap == HALVED_FROM ? half : make(cap <= HALVED_BELOW ? half : whole, cap, shop.resized);
        } else if (cap) {
            picture = make(whole, cap, shop.resized);
        }
        Code code = store_one(shop, picture, data, size, as_pixels, output, options, &records[output], error);
        if (code != OK) return code;
    }
    return OK;
}

Code read_source(const Source& source, std::vector<uint8_t>& out, Error* error) {
    if (out.size() < source.size) out.resize(source.size);
    if (!source.path) return read_fully(source.file, out.data(), source.size, source.at, error);
    int file = open(source.path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return fail(error, CUT_SHORT, std::strerror(errno));
    Code code = read_fully(file, out.data(), source.size, source.at, error);
    close(file);
    return code;
}

uint8_t* copy_of(const std::vector<uint8_t>& bytes) {
    auto copy = static_cast<uint8_t*>(std::malloc(std::max<size_t>(1, bytes.size())));
    if (!copy) throw std::bad_alloc();
    std::memcpy(copy, bytes.data(), bytes.size());
    return copy;
}

// A sound JPEG, from its bytes to those of all outputs. Any other image is left to PIL: a code that is not OK.
Code convert_jpeg(const Source& source, const StoreOptions& options, Record* records, uint8_t** out, Error* error) {
    Scratch& mine = scratch();
    Workshop& shop = workshop();
    const uint8_t* data = source.data;
    if (!data) {
        Code code = read_source(source, mine.stored, error);
        if (code != OK) return code;
        data = mine.stored.data();
    }
    if (source.size < 2 || data[0] != 0xFF || data[1] != 0xD8) return fail(error, DAMAGED, "not a JPEG");
    Info info;
    Code code = probe(mine.reader, data, source.size, &info, error);
    if (code != OK) return code;
    if (std::max(info.width, info.height) > options.most_side ||
        uint64_t(info.width) * uint64_t(info.height) > options.most_pixels)
        return fail(error, TOO_LARGE, "too many pixels");
    Picture whole;
    whole.width = info.width, whole.height = info.height;
    uint8_t* rgb = shop.decoded.room(whole.size());
    code = decode_whole(mine.reader, mine.row, data, source.size, rgb, whole.width, whole.height, error);
    if (code != OK) return code;
    whole.rgb = rgb;
    const uint8_t* plain = is_plain(data, source.size) ? data : nullptr;
    code = store(mine, shop, whole, plain, source.size, source.as_pixels, options, records, error);
    if (code == OK) *out = copy_of(shop.stored);
    return code;
}

}  // namespace
