using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Gpu;

public class BlockAllocatorTests
{
    private const ulong Window = 1UL << 32;

    [Fact]
    public void A_request_takes_the_smallest_block_that_fits()
    {
        BlockAllocator allocator = Make(0x10000);
        MemoryBlock[] all = [.. Enumerable.Range(0, 16).Select(_ => Take(allocator, 0x1000))];
        allocator.Free(all[2]);
        allocator.Free(all[3]);
        allocator.Free(all[8]);
        Assert.Equal(all[8].Range, Take(allocator, 0x1000).Range);
    }

    [Fact]
    public void Free_neighbours_become_one_block()
    {
        BlockAllocator allocator = Make(0x3000);
        MemoryBlock a = Take(allocator, 0x1000), b = Take(allocator, 0x1000), c = Take(allocator, 0x1000);
        allocator.Free(a);
        allocator.Free(c);
        Assert.Equal(0x1000UL, allocator.LargestFreeBytes);
        allocator.Free(b);
        Assert.Equal(new DeviceRange(new DeviceAddress(Window), 0x3000), Assert.Single(allocator.Blocks).Range);
    }

    [Theory]
    [InlineData(0UL, 1UL)]
    [InlineData(1UL, 3UL)]
    [InlineData(1UL, 0x1800UL)]
    public void A_request_of_no_size_or_no_alignment_is_EINVAL(ulong sizeBytes, ulong alignmentBytes) =>
        Assert.Equal(Errno.EINVAL, Make(0x4000).TryAllocate(sizeBytes, alignmentBytes, "a", out _));

    [Fact]
    public void A_request_that_does_not_fit_gets_the_errno_of_its_pool_and_takes_nothing()
    {
        BlockAllocator allocator =
            new("vram", [new DeviceRange(new DeviceAddress(Window), 0x2000)], 0x1000, Errno.ENOSPC);
        Assert.Equal(Errno.ENOSPC, allocator.TryAllocate(0x2001, 1, "a", out _));
        Assert.Equal(Errno.ENOSPC, allocator.TryAllocate(ulong.MaxValue, 1, "a", out _));
        Assert.Equal(0x2000UL, allocator.FreeBytes);
    }

    [Fact]
    public void A_request_larger_than_any_block_is_spread_over_blocks_that_keep_the_alignment()
    {
        BlockAllocator allocator = Make(0x8000, 0x6000);
        Assert.Equal(Errno.Success, allocator.TryAllocate(0xC800, 0x2000, "big", out MemoryBlock[] blocks));
        Assert.Equal([0x8000UL, 0x5000UL], blocks.Select(b => b.Range.LengthBytes));
        Assert.All(blocks, b => Assert.Equal(0UL, b.Range.Start.Value % 0x2000));
        Assert.Equal(0x1000UL, allocator.FreeBytes);
    }

    [Fact]
    public void A_block_freed_twice_is_a_bug_that_throws()
    {
        BlockAllocator allocator = Make(0x1000);
        MemoryBlock block = Take(allocator, 1);
        allocator.Free(block);
        Assert.Throws<InvalidOperationException>(() => allocator.Free(block));
    }

    [Fact]
    public void A_quarantined_block_is_not_handed_out()
    {
        BlockAllocator allocator = Make(0x2000);
        MemoryBlock block = Take(allocator, 0x1000);
        allocator.Quarantine(block);
        Assert.Equal((0x1000UL, 0UL, 0x1000UL), (allocator.FreeBytes, allocator.UsedBytes, allocator.QuarantinedBytes));
        Assert.NotEqual(block.Range, Take(allocator, 0x1000).Range);
        Assert.Equal(Errno.ENOMEM, allocator.TryAllocate(1, 1, "late", out _));
        allocator.Free(block);
        Assert.Equal(block.Range, Take(allocator, 0x1000).Range);
    }

    [Theory]
    [InlineData(1UL)]
    [InlineData(2UL)]
    [InlineData(3UL)]
    [InlineData(4UL)]
    public void Any_sequence_of_requests_keeps_the_books_of_a_page_map(ulong seed)
    {
        // The model: one owner per page, per window. Slow and obvious.
        const ulong Page = 0x100;
        ulong[] sizes = [0x4000, 0x1F00, 0x800];
        Dictionary<ulong, MemoryBlock?> pages = [];
        for (int w = 0; w < sizes.Length; w++)
        {
            for (ulong offset = 0; offset < sizes[w]; offset += Page)
            {
                pages.Add((ulong)(w + 1) * Window + offset, null);
            }
        }

        BlockAllocator allocator = new(
            "pool",
            [.. sizes.Select((s, w) => new DeviceRange(new DeviceAddress((ulong)(w + 1) * Window), s))],
            (int)Page,
            Errno.ENOMEM);
        SplitMix64 random = new(seed);
        List<MemoryBlock> held = [];
        for (int step = 0; step < 4000; step++)
        {
            int choice = random.Next(10);
            if (choice < 5)
            {
                ulong size = (ulong)random.Next(0x1800) + 1, alignment = 1UL << random.Next(12);
                Errno errno = allocator.TryAllocate(size, alignment, $"step {step}", out MemoryBlock[] blocks);
                if (errno != Errno.Success)
                {
                    Assert.Equal(Errno.ENOMEM, errno);
                    Assert.True(alignment > Page || size > (ulong)pages.Values.Count(b => b is null) * Page,
                        "refused although it fits");
                    continue;
                }

                Assert.Equal((size + Page - 1) / Page * Page, (ulong)blocks.Sum(b => (long)b.Range.LengthBytes));
                foreach (MemoryBlock block in blocks)
                {
                    Assert.Equal(0UL, block.Range.Start.Value % Math.Max(alignment, Page));
                    for (ulong offset = 0; offset < block.Range.LengthBytes; offset += Page)
                    {
                        Assert.Null(pages[block.Range.Start.Value + offset]);
                        pages[block.Range.Start.Value + offset] = block;
                    }
                }

                held.AddRange(blocks);
            }
            else if (held.Count > 0)
            {
                MemoryBlock block = held[random.Next(held.Count)];
                if (choice == 5 && block.State == BlockState.Used)
                {
                    allocator.Quarantine(block);
                    continue;
                }

                held.Remove(block);
                allocator.Free(block);
                for (ulong offset = 0; offset < block.Range.LengthBytes; offset += Page)
                {
                    pages[block.Range.Start.Value + offset] = null;
                }
            }

            Check(allocator, pages.Count(p => p.Value is null) * (long)Page, held);
        }
    }

    private static void Check(BlockAllocator allocator, long freeBytes, List<MemoryBlock> held)
    {
        Assert.Equal((ulong)freeBytes, allocator.FreeBytes);
        Assert.Equal(allocator.TotalBytes, allocator.FreeBytes + allocator.UsedBytes + allocator.QuarantinedBytes);
        MemoryBlock? before = null;
        int used = 0;
        ulong largest = 0;
        foreach (MemoryBlock block in allocator.Blocks)
        {
            if (before is not null && before.Range.Start + before.Range.LengthBytes == block.Range.Start)
            {
                Assert.False(before.State == BlockState.Free && block.State == BlockState.Free,
                    "free neighbours were not merged");
            }

            largest = block.State == BlockState.Free ? Math.Max(largest, block.Range.LengthBytes) : largest;
            used += block.State == BlockState.Free ? 0 : 1;
            before = block;
        }

        Assert.Equal(held.Count, used);
        Assert.Equal(largest, allocator.LargestFreeBytes);
    }

    private static BlockAllocator Make(params ulong[] windows) => new(
        "pool",
        [.. windows.Select((s, w) => new DeviceRange(new DeviceAddress((ulong)(w + 1) * Window), s))],
        0x1000,
        Errno.ENOMEM);

    private static MemoryBlock Take(BlockAllocator allocator, ulong sizeBytes)
    {
        Assert.Equal(Errno.Success, allocator.TryAllocate(sizeBytes, 1, "test", out MemoryBlock[] blocks));
        return Assert.Single(blocks);
    }
}
