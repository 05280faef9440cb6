using Xunit;

namespace Wayleave.Tests.Recorded;

/// <summary>
/// What the kernel's own exporters answer to the calls that <c>UdmabufDevice</c> and <c>DmaHeap</c> make: Wayleave has
/// nothing of its own there, and hands the errno on.
/// </summary>
public sealed class ExporterRecordTests
{
    [Fact]
    public void DBUF_44_A_udmabuf_is_whole_pages_of_a_memfd_that_cannot_shrink_and_can_be_written() => Assert.Equal(
        [
            "offset of half a page = EINVAL", "size of half a page = EINVAL", "size 0 = EINVAL",
            "past the end of the memfd = EINVAL", "a pipe = EBADFD", "fd -1 = EBADFD",
            "a memfd without seals = EINVAL", "a memfd with F_SEAL_WRITE = EINVAL",
            "an aligned memfd with F_SEAL_SHRINK = ok",
        ],
        Kernel("DBUF-44"));

    [Fact]
    public void DBUF_45_A_memfd_and_its_udmabuf_are_one_memory() => Assert.Equal(
        [
            "4 KiB: the memfd and the dma-buf are one memory = yes",
            "2 MiB: the memfd and the dma-buf are one memory = yes",
            "what a device of ours writes is in the kernel's dma-buf = yes",
        ],
        Kernel("DBUF-45"));

    [Fact]
    public void DBUF_47_A_heap_refuses_flags_and_takes_a_structure_of_another_length() => Assert.Equal(
        [
            "ALLOC = ok", "ALLOC, heap_flags 1 = EINVAL", "ALLOC, fd_flags O_DIRECT = EINVAL",
            "ALLOC, fd 1 on entry = EINVAL", "ALLOC of 0 bytes = EINVAL", "ALLOC of 1 byte = ok",
            "ALLOC with a structure 8 bytes shorter = ok", "ALLOC with a structure 8 bytes longer = ok",
            "ALLOC on a file that is no heap = ENOTTY",
        ],
        Kernel("DBUF-47"));

    private static IEnumerable<string> Kernel(string id) => KernelRecord.Read("dmabuf")
        .Where(r => r.Text("case") == id)
        .Select(r => $"{r.Text("do")} = {r.Text("result")}");
}
