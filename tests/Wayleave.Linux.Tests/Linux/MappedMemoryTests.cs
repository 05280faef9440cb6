using System.Buffers;
using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

public unsafe class MappedMemoryTests
{
    private const int PageBytes = 4096;

    [Theory]
    [InlineData(1, false)]
    [InlineData(3 * PageBytes + 7, false)]
    [InlineData(1, true)]
    [InlineData(5 << 20, true)]
    public void Anonymous_memory_is_zeroed_and_has_the_length_that_was_asked_for(int lengthBytes, bool hugePages)
    {
        using MappedMemory memory = MappedMemory.AllocateAnonymous(lengthBytes, hugePages);
        Assert.Equal(lengthBytes, memory.Memory.Length);
        Assert.False(memory.GetSpan().ContainsAnyExcept((byte)0));
        memory.GetSpan()[^1] = 1;
    }

    [Fact]
    public void Memory_for_huge_pages_starts_on_their_boundary_and_is_advised()
    {
        using MappedMemory memory = MappedMemory.AllocateAnonymous(3 << 20, hugePages: true);
        using MemoryHandle pin = memory.Pin();
        Assert.Equal(0u, (nuint)pin.Pointer % MappedMemory.HugePageBytes);
        if (!Support.HugePages.IsAvailable)
        {
            Assert.Skip(Support.HugePages.Detail);
        }

        Assert.Equal(Errno.Success, memory.HugePageAdvice);
        Assert.Equal(Errno.Success, memory.Populate());

        // The kernel shows a mapping that was advised with "hg", and what it gave.
        Assert.Contains(" hg", LineOfMapping((nuint)pin.Pointer, "VmFlags:"), StringComparison.Ordinal);
    }

    [Fact]
    public void Memory_without_huge_pages_says_that_none_were_asked_for()
    {
        using MappedMemory memory = MappedMemory.AllocateAnonymous(PageBytes, hugePages: false);
        Assert.Equal(Errno.ENODATA, memory.HugePageAdvice);
        Assert.Equal(Errno.Success, memory.Populate());
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(int.MaxValue + 1L)]
    public void A_length_that_no_Memory_has_is_refused(long lengthBytes) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => MappedMemory.AllocateAnonymous(lengthBytes, hugePages: false));

    [Fact]
    public void Windows_add_up_to_the_length()
    {
        MappedMemory[] windows = MappedMemory.AllocateWindows((2 * PageBytes) + 5, PageBytes, hugePages: false);
        Assert.Equal([PageBytes, PageBytes, 5], windows.Select(w => w.Memory.Length));
        foreach (MappedMemory window in windows)
        {
            ((IDisposable)window).Dispose();
        }
    }

    [Fact]
    public void Memory_stays_mapped_until_the_last_pin_is_gone()
    {
        const string Name = "wayleave-test-pins";
        using FileDescriptor fd = MemFd.Create(Name, PageBytes);
        MappedMemory memory = MappedMemory.MapShared(fd, 0, PageBytes, Name);
        MemoryHandle first = memory.Memory.Pin();
        MemoryHandle second = memory.Memory[16..].Pin();
        Assert.Equal(2, memory.PinCount);

        ((IDisposable)memory).Dispose();
        ((IDisposable)memory).Dispose();
        Assert.Equal(2, memory.PinCount);
        Assert.Equal(16, (byte*)second.Pointer - (byte*)first.Pointer);
        *(byte*)first.Pointer = 42;
        first.Dispose();
        Assert.True(IsMapped(Name));
        second.Dispose();
        Assert.False(IsMapped(Name));

        using MappedMemory again = MappedMemory.MapShared(fd, 0, PageBytes, Name);
        Assert.Equal(42, again.GetSpan()[0]);
    }

    [Fact]
    public void Disposed_memory_gives_out_neither_spans_nor_pins()
    {
        MappedMemory memory = MappedMemory.AllocateAnonymous(PageBytes, hugePages: false);
        MemoryHandle pin = memory.Pin();
        ((IDisposable)memory).Dispose();
        Assert.Throws<ObjectDisposedException>(() => memory.GetSpan().Length);
        Assert.Throws<ObjectDisposedException>(() => memory.Pin());
        Assert.Throws<ObjectDisposedException>(() => memory.Populate());
        pin.Dispose();
        Assert.Throws<ObjectDisposedException>(() => memory.Pin());
    }

    [Fact]
    public void One_unpin_too_many_is_a_broken_invariant()
    {
        MappedMemory memory = MappedMemory.AllocateAnonymous(PageBytes, hugePages: false);
        Assert.Throws<InvalidOperationException>(memory.Unpin);
    }

    [Fact]
    public void A_failed_map_names_the_call_the_object_and_the_reason()
    {
        using FileDescriptor fd = MemFd.Create("wayleave-test", PageBytes);
        LinuxException e =
            Assert.Throws<LinuxException>(() => MappedMemory.MapShared(fd, 1, PageBytes, "wayleave-test"));
        Assert.Equal("mmap wayleave-test: Invalid argument (EINVAL)", e.Message);
        Assert.Equal(("mmap", "wayleave-test", Errno.EINVAL, 22), (e.Call, e.Subject, e.Errno, e.HResult));
    }

    [Fact]
    public void A_memfd_keeps_its_size_whatever_its_holders_do()
    {
        using FileDescriptor fd = MemFd.Create("wayleave-test", PageBytes);
        Assert.True(MemFd.IsSealedAgainstShrinking(fd));
        using FileStream file = new($"/proc/self/fd/{fd.DangerousGetHandle()}", FileMode.Open, FileAccess.ReadWrite);
        Assert.Throws<UnauthorizedAccessException>(() => file.SetLength(0)); // EPERM, from the seal
        Assert.Equal(PageBytes, file.Length);
    }

    [Fact]
    public void Something_that_knows_no_seals_may_shrink()
    {
        using EventFd other = new();
        Assert.False(MemFd.IsSealedAgainstShrinking(other.Descriptor));
    }

    [Fact]
    public void A_memfd_with_too_long_a_name_is_refused()
    {
        LinuxException e = Assert.Throws<LinuxException>(() => MemFd.Create(new string('x', 250), PageBytes));
        Assert.Equal(Errno.EINVAL, e.Errno);
    }

    // By name: another thread may get the address as soon as it is free.
    private static bool IsMapped(string memFdName) =>
        File.ReadLines("/proc/self/maps").Any(line => line.Contains($"/memfd:{memFdName} ", StringComparison.Ordinal));

    private static string? LineOfMapping(nuint address, string key)
    {
        bool inside = false;
        foreach (string line in File.ReadLines("/proc/self/smaps"))
        {
            string[] range = line.Split(' ', 2)[0].Split('-');
            if (range.Length == 2)
            {
                inside = Convert.ToUInt64(range[0], 16) <= address && address < Convert.ToUInt64(range[1], 16);
            }
            else if (inside && line.StartsWith(key, StringComparison.Ordinal))
            {
                return line;
            }
        }

        return null;
    }
}
