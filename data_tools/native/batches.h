// Threads that turn samples of a beton into batches.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>
#include <unistd.h>

#include "base.h"
#include "crops.h"
#include "jpeg_crops.h"
#include "xxh64.h"

namespace {

struct Task {  // a sample of a batch to load; library.py: TASK
    uint64_t at, size, checksum;
    Stored stored;
    Crop crop;
};

struct Batch {  // owned by Python, which keeps it and all it points to until it is finished or cancelled
    const Task* tasks;
    uint8_t* out;
    int32_t file, samples, height, width, verify;
    int32_t taken, finished;  // under the pool's lock, as is what follows
    int32_t failed, code;     // the first sample that failed, or -1
    Error error;
};

Code read_fully(int file, uint8_t* out, size_t size, uint64_t at, Error* error) {
    // pread instead of a memory map: a truncated file or a failing disk is then an error, not a signal.
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
    return load_crop(mine, mine.stored.data(), task.size, task.stored, task.crop, out, error);
}

// Threads that process batches image by image, in order of submission. They start on the next batch before the last
// one is finished, so a slow image at the end of a batch does not hold them up.
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
    std::deque<Batch*> waiting;  // batches with samples that no thread has taken
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
