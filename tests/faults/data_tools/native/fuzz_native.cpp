// Damaged JPEGs through every entry point that reads one: each FILE as it is, then mutations of them for SECONDS.
//
// It includes the source that it tests, so that one compiler command builds both with a sanitizer:
//     g++ -std=c++17 -g -O1 -fsanitize=address,undefined -pthread tests/faults/data_tools/native/fuzz_native.cpp -ljpeg -o fuzz
//     ./fuzz SECONDS SEED FILE...
// or, to let libFuzzer look for inputs that reach new code (what it found is in corpus.zip):
//     clang++ -std=c++17 -g -O1 -DLIBFUZZER -fsanitize=fuzzer,address,undefined -pthread fuzz_native.cpp -ljpeg -o fuzz
//     ./fuzz -max_total_time=600 -max_len=4096 CORPUS
// Whatever the bytes are, a call must return, with pixels or an error; sanitizers watch the memory.

#include "../../../../data_tools/native/api.cpp"

#include <fstream>
#include <iterator>
#include <random>
#include <string>

using Data = std::vector<uint8_t>;
static std::mt19937_64 rng;

static size_t below(size_t n) { return n ? rng() % n : 0; }

static void mutate(Data& data) {
    static const uint8_t telling[] = {0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF, 0xC0, 0xC2, 0xC4, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xDD};
    for (size_t edits = 1 + below(4); edits-- && data.size() > 4;) {
        // Half of the edits hit the headers, where most decisions are made.
        size_t at = below(2) ? below(data.size()) : below(std::min<size_t>(data.size(), 700)), length = 1 + below(40);
        length = std::min(length, data.size() - at);
        switch (below(6)) {
            case 0: data[at] ^= uint8_t(1u << below(8)); break;
            case 1: data[at] = telling[below(sizeof telling)]; break;
            case 2: data.resize(at); break;
            case 3: data.erase(data.begin() + at, data.begin() + at + length); break;
            case 4: { Data part(data.begin() + at, data.begin() + at + length); data.insert(data.begin() + below(data.size()), part.begin(), part.end()); break; }
            default: for (size_t i = 0; i < length; i++) data[at + i] = uint8_t(rng()); break;
        }
    }
}

static void load_any(const uint8_t* data, size_t size, int mode, int width, int height, const CropRule* rule, int64_t sample,
                     uint8_t* out, int out_height, int out_width) {
    Error error;
    guarded(&error, [&] {
        Crop crop = rule ? random_crop(*rule, uint64_t(sample), width, height)
                         : Crop{0, 0, height, width, 0};
        return load_crop(scratch(), data, size, {mode, width, height}, crop, {out_height, out_width, out}, &error);
    });
}

// An image of a conversion, with sizes and pages of any kind.
static void convert_any(const uint8_t* data, size_t size) {
    int32_t caps[3] = {int32_t(below(200)), 1 + int32_t(below(400)), 0};
    uint64_t page_bytes[3] = {1 + below(1 << 20), 1 + below(1 << 20), 1 + below(1 << 20)};
    StoreOptions options = {caps, page_bytes, 1 << 20, 3, int32_t(below(2)), 0, 1 + int32_t(below(100)),
                            int32_t(below(2)), int32_t(below(2)), 1 + int32_t(below(2000))};
    Source source = {data, nullptr, 0, size, -1, int32_t(below(2))};
    options.lanczos = int32_t(below(2));
    Record records[3];
    uint8_t* stored = nullptr;
    int32_t code = OK;
    Conversion conversion{};
    conversion.kind = CONVERT, conversion.items = 1;
    conversion.sources = &source, conversion.options = &options;
    conversion.records = records, conversion.stored = &stored, conversion.codes = &code;
    Error error;
    do_item(conversion, 0, &error);
    if (code != OK) return;
    for (int output = 0; output < 3; output++) {
        Data gathered(records[output].size);
        gathered.shrink_to_fit();
        native_gather(&stored, records, 1, 3, output, gathered.data());
        if (xxh64(gathered.data(), gathered.size()) != records[output].checksum) std::abort();
        if (records[output].size > page_bytes[output]) std::abort();
    }
    native_free(stored);
    // The same picture by the way of those that PIL decodes.
    Data rgb(size_t(3) * 40 * 30, uint8_t(below(256)));
    if (native_store(rgb.data(), 40, 30, nullptr, 0, int32_t(below(2)), &options, records, &stored, &error) == OK) native_free(stored);
}

static void run(const Data& sample, Data& out) {
    Data data(sample);  // exactly as long as it is, so that reading past the end shows
    data.shrink_to_fit();
    Error error;
    Info info{};
    bool probed = native_probe(data.data(), data.size(), &info, &error) == OK;
    bool small = probed && int64_t(info.width) * info.height <= 1 << 20;
    if (small) {
        out.resize(size_t(3) * info.width * info.height);
        native_decode(data.data(), data.size(), out.data(), info.width, info.height, &error);
    }
    Survey found;
    native_survey(data.data(), data.size(), 1 << 20, &found, &error);
    CropRule rule = {rng(), rng(), 0.08, 1.0, 0.75, 4.0 / 3};
    // The sizes of the metadata may be the image's or anything.
    int width = small && below(4) ? info.width : 1 + int(below(600)), height = small && below(4) ? info.height : 1 + int(below(600));
    int out_height = 1 + int(below(64)), out_width = 1 + int(below(64));
    out.resize(size_t(3) * out_height * out_width);
    load_any(data.data(), data.size(), int(below(3)), width, height, below(3) ? &rule : nullptr, int64_t(rng()), out.data(), out_height, out_width);
    load_any(data.data(), data.size(), JPG, width, height, &rule, int64_t(rng()), out.data(), out_height, out_width);
    convert_any(data.data(), data.size());
    native_checksum(data.data(), data.size());
}

#ifdef LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static Data out;
    rng.seed(xxh64(data, size));
    run(Data(data, data + size), out);
    return 0;
}
#else
int main(int count, char** arguments) {
    if (count < 4) return 2;
    rng.seed(std::stoull(arguments[2]));
    std::vector<Data> seeds;
    for (int i = 3; i < count; i++) {
        std::ifstream file(arguments[i], std::ios::binary);
        seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(int64_t(1000 * std::stod(arguments[1])));
    long runs = 0;
    for (Data out; runs < long(seeds.size()) || std::chrono::steady_clock::now() < end; runs++) {
        Data data = seeds[runs < long(seeds.size()) ? size_t(runs) : below(seeds.size())];
        if (runs >= long(seeds.size())) mutate(data);
        run(data, out);
    }
    std::printf("%ld inputs\n", runs);
    return 0;
}
#endif
