// Memory of results that is kept when it is freed, and handed out again: its pages are there already.
#pragma once

#include <cstddef>

namespace fourreal::cpu {

struct MemoryBlock {
    void* data = nullptr;
    std::size_t bytes = 0;
};

// Every function may be called from any thread, also after the interpreter has ended and in a forked process.

// At least this many bytes with any content, not written before or given back earlier: a kept block that is larger by at
// most an eighth and at most 2 MiB, the smallest of them, or a new one. Null without memory, and in builds and systems
// without recycling, where nothing is kept.
MemoryBlock take_block(std::size_t bytes);

// Ends the use of a block that `take_block` gave. It is kept; of what exceeds the limit the oldest goes to the system.
void give_block(MemoryBlock block);

// How many bytes may be kept; 0, with which a process starts, keeps none. What exceeds it goes to the system.
void set_kept_limit(std::size_t bytes);

std::size_t kept_bytes();

// Gives every kept block to the system; returns their bytes.
std::size_t release_kept();

}  // namespace fourreal::cpu
