/*
 * CRC-32 by folding with the wide carry-less multiplication, which .NET knows from version 10 on and this library is
 * compiled for 9 (docs/adr/0010). The same method as in CrcFold.cs, and only its loop: what is left of a run is one
 * block that managed code feeds to its own.
 *
 * A vector of four lanes of 128 bits is brought over D bits by two products per lane, with x^(D+63) and x^(D-1) modulo
 * the polynomial. The constants are those of Gopal et al. (Intel, 2009), reflected; managed code compares the result
 * with its own before it uses any of this.
 */
#include "shim.h"

#include <immintrin.h>

enum { BLOCK = 64, RUN = 256 };

static const uint64_t over2048[2] = { 0x011542778a, 0x01322d1430 };
static const uint64_t over1024[2] = { 0x01e88ef372, 0x014a7fe880 };
static const uint64_t over512[2] = { 0x0154442bd4, 0x01c6e41596 };

#define FOLD512(x, k)                                                                                                  \
	_mm512_xor_si512(_mm512_clmulepi64_epi128(x, k, 0x00), _mm512_clmulepi64_epi128(x, k, 0x11))

/*
 * Feeds the whole runs of 256 bytes, at least two of them, and stores what it reads in TO unless that is null. The
 * block, with a register of zero, stands for what was fed. Returns how many bytes that was.
 */
__attribute__((target("avx512f,avx512bw,vpclmulqdq,pclmul"))) static size_t
fold512(uint32_t reg, const uint8_t *from, uint8_t *to, size_t length, uint8_t *block)
{
	const __m512i far = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)over2048));
	const __m512i near = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)over512));
	size_t end = length / RUN * RUN;
	__m512i x[4];

	for (int i = 0; i < 4; i++) {
		x[i] = _mm512_loadu_si512(from + i * BLOCK);
		if (to)
			_mm512_storeu_si512(to + i * BLOCK, x[i]);
	}
	x[0] = _mm512_xor_si512(x[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)reg)));
	for (size_t at = RUN; at < end; at += RUN) {
		for (int i = 0; i < 4; i++) {
			__m512i next = _mm512_loadu_si512(from + at + i * BLOCK);

			if (to)
				_mm512_storeu_si512(to + at + i * BLOCK, next);
			x[i] = _mm512_xor_si512(FOLD512(x[i], far), next);
		}
	}
	for (int i = 0; i < 3; i++)
		x[i + 1] = _mm512_xor_si512(FOLD512(x[i], near), x[i + 1]);
	_mm512_storeu_si512(block, x[3]);
	return end;
}

#define FOLD256(x, k)                                                                                                  \
	_mm256_xor_si256(_mm256_clmulepi64_epi128(x, k, 0x00), _mm256_clmulepi64_epi128(x, k, 0x11))

/* As fold512, with vectors of half the size: two of them are left. */
__attribute__((target("avx2,vpclmulqdq,pclmul"))) static size_t
fold256(uint32_t reg, const uint8_t *from, uint8_t *to, size_t length, uint8_t *block)
{
	enum { HALF = BLOCK / 2, WIDTH = 4 * HALF };
	const __m256i far = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)over1024));
	const __m256i near = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)over512));
	size_t end = length / RUN * RUN;
	__m256i x[4];

	for (int i = 0; i < 4; i++) {
		x[i] = _mm256_loadu_si256((const __m256i *)(from + i * HALF));
		if (to)
			_mm256_storeu_si256((__m256i *)(to + i * HALF), x[i]);
	}
	x[0] = _mm256_xor_si256(x[0], _mm256_zextsi128_si256(_mm_cvtsi32_si128((int)reg)));
	for (size_t at = WIDTH; at < end; at += WIDTH) {
		for (int i = 0; i < 4; i++) {
			__m256i next = _mm256_loadu_si256((const __m256i *)(from + at + i * HALF));

			if (to)
				_mm256_storeu_si256((__m256i *)(to + at + i * HALF), next);
			x[i] = _mm256_xor_si256(FOLD256(x[i], far), next);
		}
	}
	x[2] = _mm256_xor_si256(FOLD256(x[0], near), x[2]);
	x[3] = _mm256_xor_si256(FOLD256(x[1], near), x[3]);
	_mm256_storeu_si256((__m256i *)block, x[2]);
	_mm256_storeu_si256((__m256i *)(block + HALF), x[3]);
	return end;
}

/* The widest that this processor has, or null. */
void *fold_of_processor(void)
{
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("vpclmulqdq"))
		return NULL;
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
		return (void *)fold512;
	return __builtin_cpu_supports("avx2") ? (void *)fold256 : NULL;
}
