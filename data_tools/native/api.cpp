// Image work that has to be fast: JPEG in and out, an antialiased resize, XXH64, random crops, and the threads
// that turn samples of a beton into batches.
//
// Rules of these files. Nothing here knows Python: library.py binds the extern "C" functions below by ctypes, which
// releases the GIL. Every entry point returns a Code and fills an Error; no exception and no longjmp leaves it. libjpeg
// reports errors by longjmp, so between a setjmp and the libjpeg calls under it there are only objects without
// destructors: buffers that grow belong to the thread's Scratch, outside. Loops are plain and the compiler vectorises
// them; FAST compiles a function once for each vector width and picks at load time. Arithmetic on pixels is exact, in
// integers or in floats that hold whole numbers, so every machine with the same libjpeg-turbo gives the same bytes.

#include "base.h"
#include "convert.h"
#include "crops.h"
#include "jpeg.h"
#include "jpeg_crops.h"
#include "resize.h"
#include "work.h"

API int32_t native_probe(const uint8_t* data, size_t size, Info* info, Error* error) {
    return guarded(error, [&] { return probe(scratch().reader, data, size, info, error); });
}

API int32_t native_decode(const uint8_t* data, size_t size, uint8_t* out, int32_t width, int32_t height, Error* error) {
    return guarded(error, [&] {
        Scratch& mine = scratch();
        return decode_whole(mine.reader, mine.stored, data, size, out, width, height, error);
    });
}

API int32_t native_survey(const uint8_t* data, size_t size, uint64_t most_pixels, Survey* out, Error* error) {
    return guarded(error, [&] { return survey(scratch().reader, data, size, most_pixels, out, error); });
}

API int32_t native_encode(const uint8_t* rgb, int32_t width, int32_t height, const EncodeOptions* options, uint8_t* out,
                          size_t capacity, size_t* size, Error* error) {
    return guarded(error, [&] { return encode(rgb, width, height, *options, out, capacity, size, error); });
}

API int32_t native_resize(const uint8_t* rgb, int32_t height_in, int32_t width_in, uint8_t* out, int32_t height,
                          int32_t width, int32_t lanczos, Error* error) {
    return guarded(error, [&] {
        if (lanczos) {
            workshop().lanczos.run(rgb, height_in, width_in, height, width, out);
            return OK;
        }
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

// Which clone of the FAST functions runs on this processor, by the same test as in their resolver.
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

namespace {
Code do_item(Work& work, int i, Error* error) {
    if (work.kind == LOAD) return load_sample(static_cast<Batch&>(work), i, error);
    auto& conversion = static_cast<Conversion&>(work);
    const StoreOptions& options = *conversion.options;
    Error unused;  // who stores the image instead finds the reason
    conversion.codes[i] = guarded(&unused, [&] {
        return convert_jpeg(conversion.sources[i], options, conversion.records + size_t(options.outputs) * i,
                            &conversion.stored[i], &unused);
    });
    return OK;
}
}  // namespace

// An image that was decoded elsewhere; `data` holds the file's own bytes if they may be stored, else null.
API int32_t native_store(const uint8_t* rgb, int32_t width, int32_t height, const uint8_t* data, size_t size,
                         int32_t as_pixels, const StoreOptions* options, Record* records, uint8_t** out, Error* error) {
    return guarded(error, [&] {
        Workshop& shop = workshop();
        Picture whole;
        whole.rgb = rgb, whole.width = width, whole.height = height;
        Code code = store(scratch(), shop, whole, data, size, as_pixels, *options, records, error);
        if (code == OK) *out = copy_of(shop.stored);
        return code;
    });
}

// Copies one output of `images` images to `out`, one after another.
API void native_gather(uint8_t* const* stored, const Record* records, int32_t images, int32_t outputs, int32_t output,
                       uint8_t* out) {
    for (int i = 0; i < images; i++) {
        if (!stored[i]) continue;
        const Record* own = records + size_t(outputs) * i;
        size_t at = 0;
        for (int before = 0; before < output; before++) at += own[before].size;
        std::memcpy(out, stored[i] + at, own[output].size);
        out += own[output].size;
    }
}

API void native_free(uint8_t* stored) { std::free(stored); }

API uint64_t native_checksum(const uint8_t* data, size_t size) { return xxh64(data, size); }

API void native_crops(const CropRule* rule, const int64_t* samples, const int32_t* widths, const int32_t* heights,
                      int64_t n, Crop* out) {
    for (int64_t i = 0; i < n; i++) out[i] = random_crop(*rule, uint64_t(samples[i]), widths[i], heights[i]);
}

// For numba: what keys the random numbers of an augmentation.
API uint32_t native_sample_key(const CropRule* rule, int64_t sample) { return sample_key(*rule, uint64_t(sample)); }

API Pool* native_pool_new(int32_t threads) {
    try {
        return new Pool(threads);
    } catch (const std::exception&) {  // the system gives no more threads, or no memory
        return nullptr;
    }
}

API void native_pool_delete(Pool* pool) { delete pool; }
API void native_pool_submit(Pool* pool, Work* work) { pool->submit(work); }
API int32_t native_pool_wait(Pool* pool, const Work* work, int32_t milliseconds) {
    return pool->wait(work, milliseconds);
}
API void native_pool_cancel(Pool* pool, Work* work) { pool->cancel(work); }

// The pool's work in the calling thread, without a pool: a baseline for benchmarks of the loader.
API int32_t native_loop(const Batch* batch, Error* error) {
    return guarded(error, [&] {
        for (int i = 0; i < batch->items; i++) {
            Code code = load_sample(*batch, i, error);
            if (code != OK) return code;
        }
        return OK;
    });
}
