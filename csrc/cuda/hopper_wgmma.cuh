// Warpgroup products: d (64 x kColumns, float) += a b for 16-bit elements, asynchronous.
//
// Thread 32 w + l of a warpgroup holds d[4 j + 2 r + c] = row 16 w + l / 4 + 8 r, column 8 j + 2 (l % 4) + c. `a` is
// either a K-major tile of 64 rows in shared memory or 4 registers: a[2 s + r] holds the columns 8 s + 2 (l % 4) and
// the next one of row 16 w + l / 4 + 8 r. wgmma_shared takes a K-major b (kColumns rows of depth elements),
// wgmma_registers an MN-major one.
#pragma once

#include <cstdint>

#include "fourreal/dtype.hpp"

#define FOURREAL_DEVICE __device__ __forceinline__

namespace fourreal::cuda {

// The compiler computes these registers before what follows, and uses what it finds in them afterwards.
template <int kCount>
FOURREAL_DEVICE void pin_registers(float (&registers)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
FOURREAL_DEVICE void pin_registers(std::uint32_t (&registers)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// Products see what was written to registers before; needed before the first product and after writes to their
// registers.
FOURREAL_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FOURREAL_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kPending committed groups are still running; `d` are the registers that a finished group wrote.
template <int kPending, int kCount>
FOURREAL_DEVICE void wgmma_wait(float (&d)[kCount]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
    pin_registers(d);
}

template <typename T, int kColumns>
struct Wgmma;

#define FOURREAL_NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FOURREAL_NAMES_48 FOURREAL_NAMES_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define FOURREAL_NAMES_64 FOURREAL_NAMES_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FOURREAL_NAMES_96 FOURREAL_NAMES_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FOURREAL_BOUND_8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define FOURREAL_BOUND_32(i) \
    FOURREAL_BOUND_8(i), FOURREAL_BOUND_8(i + 8), FOURREAL_BOUND_8(i + 16), FOURREAL_BOUND_8(i + 24)
#define FOURREAL_REGISTERS_32 FOURREAL_BOUND_32(0)
#define FOURREAL_REGISTERS_48 FOURREAL_REGISTERS_32, FOURREAL_BOUND_8(32), FOURREAL_BOUND_8(40)
#define FOURREAL_REGISTERS_64 FOURREAL_REGISTERS_32, FOURREAL_BOUND_32(32)
#define FOURREAL_REGISTERS_96 FOURREAL_REGISTERS_64, FOURREAL_BOUND_32(64)

#define FOURREAL_MMA(TYPE, COLUMNS) "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." TYPE "." TYPE

// The numbers of the operands after the accumulators are spelled out, as inline assembly cannot add.
#define FOURREAL_WGMMA(T, TYPE, COLUMNS, COUNT, P0, P1, P2, P3, P4, P5)                                                \
    template <>                                                                                                        \
    struct Wgmma<T, COLUMNS> {                                                                                         \
        static FOURREAL_DEVICE void shared(float (&d)[COUNT], std::uint64_t a, std::uint64_t b, int accumulate) {      \
            asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " P2 ", 0;\n"                                           \
                         FOURREAL_MMA(TYPE, COLUMNS) " {" FOURREAL_NAMES_##COUNT                                       \
                         "}, " P0 ", " P1 ", add, 1, 1, 0, 0;\n}\n"                                                    \
                         : FOURREAL_REGISTERS_##COUNT                                                                  \
                         : "l"(a), "l"(b), "r"(accumulate));                                                           \
        }                                                                                                              \
        static FOURREAL_DEVICE void registers(float (&d)[COUNT], const std::uint32_t* a, std::uint64_t b,              \
                                              int accumulate) {                                                        \
            asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " P5 ", 0;\n"                                           \
                         FOURREAL_MMA(TYPE, COLUMNS) " {" FOURREAL_NAMES_##COUNT                                       \
                         "}, {" P0 ", " P1 ", " P2 ", " P3 "}, " P4 ", add, 1, 1, 1;\n}\n"                             \
                         : FOURREAL_REGISTERS_##COUNT                                                                  \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                       \
        }                                                                                                              \
    };

FOURREAL_WGMMA(BFloat16, "bf16", 64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
FOURREAL_WGMMA(BFloat16, "bf16", 96, 48, "%48", "%49", "%50", "%51", "%52", "%53")
FOURREAL_WGMMA(BFloat16, "bf16", 128, 64, "%64", "%65", "%66", "%67", "%68", "%69")
FOURREAL_WGMMA(BFloat16, "bf16", 192, 96, "%96", "%97", "%98", "%99", "%100", "%101")
FOURREAL_WGMMA(Float16, "f16", 64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
FOURREAL_WGMMA(Float16, "f16", 96, 48, "%48", "%49", "%50", "%51", "%52", "%53")
FOURREAL_WGMMA(Float16, "f16", 128, 64, "%64", "%65", "%66", "%67", "%68", "%69")
FOURREAL_WGMMA(Float16, "f16", 192, 96, "%96", "%97", "%98", "%99", "%100", "%101")

#undef FOURREAL_WGMMA
#undef FOURREAL_MMA
#undef FOURREAL_NAMES_32
#undef FOURREAL_NAMES_48
#undef FOURREAL_NAMES_64
#undef FOURREAL_NAMES_96
#undef FOURREAL_BOUND_8
#undef FOURREAL_BOUND_32
#undef FOURREAL_REGISTERS_32
#undef FOURREAL_REGISTERS_48
#undef FOURREAL_REGISTERS_64
#undef FOURREAL_REGISTERS_96

}  // namespace fourreal::cuda
