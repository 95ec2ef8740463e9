// Threads that work on items: the samples of a batch, or the images of a conversion.
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

namespace {

enum Kind : int32_t { LOAD = 0, CONVERT = 1 };

struct Work {  // owned by Python, which keeps it and all it points to until it is finished or cancelled
    int32_t kind, items;
    int32_t taken, finished;  // under the pool's lock, as is what follows
    int32_t failed, code;     // the first item that failed, or -1
    Error error;
};

Code do_item(Work& work, int i, Error* error);  // api.cpp

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

// Threads that work item by item, in order of submission. They start on the next work before the last one is finished,
// so a slow image at the end of a batch does not hold them up.
class Pool {
public:
    explicit Pool(int threads) {
        try {
            for (int i = 0; i < threads; i++) workers.emplace_back([this] { run(); });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }

    void submit(Work* work) {
        std::lock_guard<std::mutex> hold(lock);
        work->taken = work->finished = 0, work->failed = -1, work->code = OK;
        waiting.push_back(work);
        to_do.notify_all();
    }

    bool wait(const Work* work, int milliseconds) {
        std::unique_lock<std::mutex> hold(lock);
        return done.wait_for(hold, std::chrono::milliseconds(milliseconds),
                             [&] { return work->finished == work->items; });
    }

    void cancel(Work* work) {  // on return no thread touches the work
        std::unique_lock<std::mutex> hold(lock);
        waiting.erase(std::remove(waiting.begin(), waiting.end(), work), waiting.end());
        work->items = work->taken;
        done.wait(hold, [&] { return work->finished == work->items; });
    }

private:
    std::mutex lock;
    std::condition_variable to_do, done;
    std::deque<Work*> waiting;  // with items that no thread has taken
    std::vector<std::thread> workers;
    bool stopping = false;

    void run() {
        std::unique_lock<std::mutex> hold(lock);
        while (true) {
            to_do.wait(hold, [this] { return stopping || !waiting.empty(); });
            if (stopping) return;
            Work* work = waiting.front();
            int i = work->taken++;
            if (work->taken == work->items) waiting.pop_front();
            hold.unlock();
            Error error;
            Code code = guarded(&error, [&] { return do_item(*work, i, &error); });
            hold.lock();
            if (code != OK && (work->failed < 0 || i < work->failed))
                work->failed = i, work->code = code, work->error = error;
            if (++work->finished == work->items) done.notify_all();
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
