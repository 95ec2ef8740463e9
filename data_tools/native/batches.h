// Samples of a beton, turned into batches.
#pragma once

#include <cstdint>

#include "base.h"
#include "crops.h"
#include "jpeg_crops.h"
#include "work.h"
#include "xxh64.h"

namespace {

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
