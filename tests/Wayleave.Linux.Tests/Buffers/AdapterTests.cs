using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Linux.Buffers;
using Wayleave.Linux.Drm;
using Wayleave.Linux.Pci;
using Xunit;

namespace Wayleave.Linux.Tests.Buffers;

/// <summary>
/// What the adapters say on any machine: to descriptors of the wrong kind, and where the kernel lacks what they need.
/// What they do where it has it, the lab shows (lab/tests/dmabuf and p2p).
/// </summary>
public sealed class AdapterTests
{
    [Fact]
    public void A_memfd_is_no_dma_buf_and_is_closed()
    {
        FileDescriptor memory = MemFd.Create("no dma-buf", 4096);
        LinuxException refused = Assert.Throws<LinuxException>(() => DmaBuf.Open(memory));
        Assert.Equal(Errno.EINVAL, refused.Errno);
        Assert.Contains("it is no dma-buf", refused.Message, StringComparison.Ordinal);
        Assert.True(memory.IsClosed);
    }

    [Fact]
    public void The_kernels_errno_of_a_descriptor_that_is_no_sync_file_is_handed_on()
    {
        using KernelSyncFile file = new(MemFd.Create("no sync_file", 4096));
        Assert.Equal(Errno.ENOTTY, file.TryGetInfo([], 0, out SyncFileInfo info));
        Assert.Equal(0, info.Count);
        using FileDescriptor other = MemFd.Create("nor this", 4096);
        Assert.Equal(Errno.ENOTTY, file.TryMerge(other, new string('a', 100), 0, out KernelSyncFile? merged));
        Assert.Null(merged);
        Assert.Equal(Errno.ENOTTY, file.TrySetDeadline(TimeSpan.FromSeconds(1)));
    }

    [Fact]
    public void Without_the_device_an_adapter_names_the_file_that_is_missing()
    {
        if (!File.Exists(UdmabufDevice.Path))
        {
            LinuxException refused = Assert.Throws<LinuxException>(UdmabufDevice.Open);
            Assert.Equal(Errno.ENOENT, refused.Errno);
            Assert.Contains(UdmabufDevice.Path, refused.Message, StringComparison.Ordinal);
        }

        Assert.Equal(Errno.ENOENT, Assert.Throws<LinuxException>(() => DmaHeap.Open("no such heap")).Errno);
        Assert.Equal(Errno.ENOENT, Assert.Throws<LinuxException>(() => DrmDevice.Open("/dev/dri/card99")).Errno);
    }

    [Fact]
    public void A_file_that_is_no_DRM_node_is_refused_with_the_kernels_errno() =>
        Assert.Equal(Errno.ENOTTY, Assert.Throws<LinuxException>(() => DrmDevice.Open("/dev/null")).Errno);

    [Fact]
    public void A_udmabuf_and_its_memfd_are_one_memory()
    {
        Assert.SkipUnless(Support.Udmabuf.IsAvailable, Support.Udmabuf.Detail);
        using UdmabufDevice device = UdmabufDevice.Open();
        using FileDescriptor memory = MemFd.Create("udmabuf", 8192);
        Assert.Equal(Errno.EINVAL, device.TryCreate(memory, 0, 16384, out _));
        Assert.Equal(Errno.Success, device.TryCreate(memory, 4096, 4096, out DmaBuf? buffer));
        using MappedMemory whole = MappedMemory.MapShared(memory, 0, 8192, "memfd"), part = buffer!.Map();
        whole.GetSpan()[4096] = 0x5a;
        Assert.Equal(0x5a, part.GetSpan()[0]);
        Assert.Equal(Errno.Success, buffer.TrySync(BufferSync.Read));
        Assert.Equal(Errno.Success, buffer.TrySync(BufferSync.Read | BufferSync.End));
        buffer.Dispose();
    }

    [Fact]
    public void Peer_memory_is_read_as_sysfs_writes_it()
    {
        DirectoryInfo root = Directory.CreateTempSubdirectory("wayleave-p2pmem.");
        string function = Path.Combine(root.FullName, "sys/bus/pci/devices/0000:03:00.0");
        Directory.CreateDirectory(Path.Combine(root.FullName, "sys/bus/pci/devices/0000:04:00.0"));
        Directory.CreateDirectory(Path.Combine(function, "p2pmem"));
        File.WriteAllText(Path.Combine(function, "p2pmem/size"), "4194304\n");
        File.WriteAllText(Path.Combine(function, "p2pmem/available"), "4177920\n");
        File.WriteAllText(Path.Combine(function, "p2pmem/published"), "1\n");
        try
        {
            PeerMemoryFile file = Assert.Single(PeerMemoryFile.List(root.FullName));
            Assert.Equal(
                ("0000:03:00.0", 4194304UL, 4177920UL, true),
                (file.Address, file.SizeBytes, file.AvailableBytes, file.IsPublished));
            Assert.Equal(Errno.ENOENT, file.TryAllocate(4096, out MappedMemory? memory));
            Assert.Null(memory);
        }
        finally
        {
            root.Delete(recursive: true);
        }
    }
}
