using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Devices other than GPUs, whose memory programs have by the rules of each.</summary>
public sealed class DeviceTests : BrokerTest
{
    private const int Size = 1 << 20;

    protected override HostConfig Devices => base.Devices with
    {
        Accelerators = [new AcceleratorConfig { MemoryBytes = 8 << 20 }],
        Nvmes = [new NvmeConfig { MemoryBufferBytes = 4 << 20 }],
        Vfios = [new VfioConfig { Bars = [new VfioBarConfig { Index = 2, SizeBytes = 4 << 20 }] }],
    };

    [Fact]
    public async Task Memory_of_an_accelerator_stays_is_not_mapped_and_goes_when_its_users_let_go()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice device = client.OpenDevice("accel0"), gpu = client.OpenDevice("gpu0");
        Assert.Equal(8UL << 20, device.MemoryBytes);
        ClientStorage[] others = [ClientStorage.Mappable, ClientStorage.Revocable, ClientStorage.Withdrawable];
        foreach (ClientStorage storage in others)
        {
            Assert.Equal(Errno.EOPNOTSUPP, Refusal(() => device.Allocate("x", Size, storage)));
        }

        ClientBuffer range = device.Allocate("range", Size, ClientStorage.Fixed);
        using ClientBuffer local = gpu.Allocate("local", Size);
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(range.Map));
        using (ClientMapping mapping = local.Map())
        {
            mapping.Memory.Span.Fill(0x77);
        }

        // A GPU's engine reaches it, there and back.
        using ClientFence there = gpu.Copy(local, 0, range, 0, Size);
        using ClientBuffer back = gpu.Allocate("back", Size);
        using ClientFence here = gpu.Copy(range, 0, back, 0, Size, there);
        Assert.True(here.Wait(Patience.Max));
        using ClientMapping seen = back.Map();
        Assert.False(seen.Memory.Span.ContainsAnyExcept((byte)0x77));

        using FileDescriptor descriptor = range.Export();
        range.Dispose();
        using ClientBuffer again = client.Import(descriptor);
        Assert.Equal(("range", (ulong)Size), (again.Name, again.SizeBytes));
        again.Dispose();
        descriptor.Dispose();
        await UntilAsync("the range is the device's", () => Find("range") is null);
    }

    [Fact]
    public async Task Memory_of_an_accelerator_is_never_pinned_for_a_NIC_and_a_new_owner_finds_zeros()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice device = client.OpenDevice("accel0"), nic = client.OpenDevice("rdma0");
        ClientBuffer range = device.Allocate("range", 7 << 20, ClientStorage.Fixed);
        using (ClientRegion region = nic.Register(range, 0, Size, ClientRegionAccess.RemoteRead))
        {
            Assert.NotEqual(0u, region.Key);
        }

        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientBuffer local = gpu.Allocate("local", Size);
        using (ClientMapping mapping = local.Map())
        {
            mapping.Memory.Span.Fill(0x77);
        }

        using ClientFence there = gpu.Copy(local, 0, range, 0, Size);
        Assert.True(there.Wait(Patience.Max));
        range.Dispose();
        await UntilAsync("the range is the device's", () => Find("range") is null);
        using ClientBuffer next = device.Allocate("next", 7 << 20, ClientStorage.Fixed);
        using ClientFence here = gpu.Copy(next, 0, local, 0, Size);
        Assert.True(here.Wait(Patience.Max));
        using ClientMapping seen = local.Map();
        Assert.False(seen.Memory.Span.ContainsAnyExcept((byte)0));
    }

    [Fact]
    public async Task Controller_memory_of_a_drive_is_taken_back_at_once_and_never_mapped()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice drive = client.OpenDevice("nvme0"), gpu = client.OpenDevice("gpu0");
        ClientDevice nic = client.OpenDevice("rdma0");
        Assert.Equal(4UL << 20, drive.MemoryBytes);
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(() => drive.Allocate("x", Size)));
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(() => drive.Allocate("x", Size, ClientStorage.Fixed)));
        using ClientBuffer part = drive.Allocate("part", Size, ClientStorage.Revocable);
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(part.Map));
        using ClientBuffer local = gpu.Allocate("local", Size);
        using ClientFence copy = gpu.Copy(local, 0, part, 0, Size);
        Assert.True(copy.Wait(Patience.Max));
        using ClientRegion region = nic.Register(part, 0, Size, ClientRegionAccess.RemoteRead);
        Assert.Contains(
            "\"grade\":\"Retired\"", part.Revoke(Patience.Max), StringComparison.Ordinal);
        Assert.Equal(Errno.ENODEV, Refusal(() => gpu.Copy(local, 0, part, 0, Size)));
        region.Dispose();
        part.Dispose();
        await UntilAsync("the memory is the drive's", () => Find("part") is null);
        using ClientBuffer whole = drive.Allocate("whole", 4 << 20, ClientStorage.Revocable);
        Assert.Equal(Errno.ENOMEM, Refusal(() => drive.Allocate("more", 4096, ClientStorage.Revocable)));
    }

    [Fact]
    public async Task A_part_of_a_BAR_in_the_hands_of_VFIO_is_taken_back_at_once_and_never_mapped()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using BrokerClient user = BrokerClient.Connect(Server.SocketPath, "user");
        ClientDevice vfio = client.OpenDevice("vfio0"), gpu = user.OpenDevice("gpu0"), nic = user.OpenDevice("rdma0");
        Assert.Equal(4UL << 20, vfio.MemoryBytes);
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(() => vfio.Allocate("x", Size)));
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(() => vfio.Allocate("x", Size, ClientStorage.Withdrawable)));
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(() => vfio.Allocate("x", Size, ClientStorage.Fixed)));
        using ClientBuffer part = vfio.Allocate("part", Size, ClientStorage.Revocable);
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(part.Map));
        using FileDescriptor descriptor = part.Export();
        using ClientBuffer taken = user.Import(descriptor);
        Assert.Equal(Errno.EOPNOTSUPP, Refusal(taken.Map));
        using ClientBuffer local = gpu.Allocate("local", Size);
        using (ClientMapping mapping = local.Map())
        {
            mapping.Memory.Span.Fill(0x77);
        }

        // A GPU's engine and a NIC reach it, until its owner takes it back.
        using ClientFence there = gpu.Copy(local, 0, taken, 0, Size);
        using ClientBuffer back = gpu.Allocate("back", Size);
        using ClientFence here = gpu.Copy(taken, 0, back, 0, Size, there);
        Assert.True(here.Wait(Patience.Max));
        using (ClientMapping seen = back.Map())
        {
            Assert.False(seen.Memory.Span.ContainsAnyExcept((byte)0x77));
        }

        Assert.Equal(
            Errno.EOPNOTSUPP,
            Refusal(() => nic.Register(taken, 0, Size, ClientRegionAccess.RemoteRead, ClientRegionKind.Pinned)));
        using ClientRegion region = nic.Register(taken, 0, Size, ClientRegionAccess.RemoteRead);
        Assert.Contains(
            "\"grade\":\"Retired\"", part.Revoke(Patience.Max), StringComparison.Ordinal);
        Assert.Equal(Errno.ENODEV, Refusal(() => gpu.Copy(local, 0, taken, 0, Size)));
        region.Dispose();
        taken.Dispose();
        part.Dispose();
        descriptor.Dispose();
        await UntilAsync("the part is the device's", () => Find("part") is null);
        using ClientBuffer whole = vfio.Allocate("whole", 4 << 20, ClientStorage.Revocable);
        Assert.Equal(Errno.ENOSPC, Refusal(() => vfio.Allocate("more", 4096, ClientStorage.Revocable)));
    }

    private static Errno Refusal(Action action) => Assert.Throws<BrokerException>(action).Errno;

    private static Errno Refusal<T>(Func<T> action) => Refusal(() => { action(); });
}
