using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host.Broker;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>What one program may have: each limit refuses, is given back, and is zero at the end.</summary>
public sealed class QuotaTests : BrokerTest
{
    protected override BrokerLimits Limits => new()
    {
        BytesMax = 64 << 10,
        QuarantinedBytesMax = 8 << 10,
        BuffersMax = 3,
        DescriptorsMax = 3,
        MappingsMax = 1,
        ConnectionsMax = 2,
        KeysMax = 1,
        QueuePairsMax = 1,
        QueuesMax = 2,
        JobsMax = 2,
    };

    [Fact]
    public async Task Each_limit_is_of_the_program_over_all_of_its_connections_and_is_given_back()
    {
        BrokerClient one = BrokerClient.Connect(Server.SocketPath, "one");
        BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        Assert.Equal(Errno.ECONNRESET, Refusal(() => BrokerClient.Connect(Server.SocketPath, "third")));
        ClientDevice device = one.OpenDevice("gpu0");
        using ClientBuffer first = device.Allocate("first", 32 << 10);
        Assert.Equal(Errno.EDQUOT, Refusal(() => other.OpenDevice("gpu0").Allocate("large", 36 << 10)));
        using ClientBuffer second = device.Allocate("second", 4096), third = device.Allocate("third", 4096);
        Assert.Equal(Errno.EDQUOT, Refusal(() => device.Allocate("fourth", 4096)));
        FileDescriptor[] descriptors = [first.Export(), first.Export(), first.Export()];
        Assert.Equal(Errno.EDQUOT, Refusal(() => second.Export()));
        Assert.Equal(Errno.EDQUOT, Refusal(() => second.ExportFence(FenceUse.Read)));
        using ClientMapping mapping = first.Map();
        Assert.Equal(Errno.EDQUOT, Refusal(() => second.Map()));
        Assert.Equal("process", Server.Store.Programs.AllLocked[0].Holder.Split(' ')[0]);

        third.Dispose();
        device.Allocate("fourth", 4096).Dispose();
        mapping.Dispose();
        second.Map().Dispose();
        Array.ForEach(descriptors, d => d.Dispose());
        await UntilAsync("they are given back", () => Of(BrokerAccount.Descriptors) == 0);
        second.Export().Dispose();
        await ExpectNothingAsync(one, other);
    }

    [Fact]
    public async Task Keys_queue_pairs_queues_and_jobs_have_limits()
    {
        BrokerClient one = BrokerClient.Connect(Server.SocketPath, "one");
        BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        ClientDevice gpu = one.OpenDevice("gpu0"), nic = one.OpenDevice("rdma0"), same = other.OpenDevice("rdma0");
        ClientBuffer buffer = gpu.Allocate("x", 8192);
        ClientRegion region = nic.Register(buffer, 0, 4096, ClientRegionAccess.RemoteRead);
        Assert.Equal(Errno.EDQUOT, Refusal(() => nic.Register(buffer, 0, 4096, ClientRegionAccess.RemoteRead)));
        ClientQueuePair pair = nic.CreateQueuePair();
        Assert.Equal(Errno.EDQUOT, Refusal(() => same.CreateQueuePair()));
        ClientQueue queue = gpu.OpenQueue("q");
        Assert.Equal(Errno.EDQUOT, Refusal(() => gpu.OpenQueue("r")));
        Assert.Equal(Errno.EDQUOT, Refusal(() => other.OpenTimeline("t")));
        Assert.Equal(2, Of(BrokerAccount.Queues)); // the queue, and the GPU's engine that it is in
        ClientFence spin = queue.Submit(Commands.Spin(ulong.MaxValue));
        ClientFence copy = gpu.Copy(buffer, 0, buffer, 4096, 4096, spin);
        Assert.Equal(Errno.EDQUOT, Refusal(() => queue.Submit(Commands.Spin(1))));
        Assert.Equal(Errno.EDQUOT, Refusal(() => gpu.Copy(buffer, 0, buffer, 4096, 4096)));
        Assert.Equal((1L, 1L, 2L, 2L), (
            Of(BrokerAccount.Keys),
            Of(BrokerAccount.QueuePairs),
            Of(BrokerAccount.Queues),
            Of(BrokerAccount.Jobs)));

        region.Dispose();
        region.Dispose();
        nic.Register(buffer, 0, 4096, ClientRegionAccess.RemoteRead).Dispose();
        pair.Dispose();
        same.CreateQueuePair().Dispose();
        queue.Dispose();
        other.OpenTimeline("t").Dispose();
        Assert.Equal((0L, 0L, 1L, 2L), (
            Of(BrokerAccount.Keys),
            Of(BrokerAccount.QueuePairs),
            Of(BrokerAccount.Queues),
            Of(BrokerAccount.Jobs)));
        one.Dispose();
        Assert.True(copy.Wait(Patience.Max));
        spin.Dispose();
        copy.Dispose();
        await ExpectNothingAsync(one, other);
    }

    [Fact]
    public async Task An_attachment_is_a_key_and_where_it_is_mapped_a_mapping()
    {
        BrokerClient one = BrokerClient.Connect(Server.SocketPath, "one");
        BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        ClientDevice gpu = one.OpenDevice("gpu0"), nic = one.OpenDevice("rdma0");
        ClientBuffer buffer = gpu.Allocate("x", 4096);
        FileDescriptor descriptor = buffer.Export();
        using IDisposable memory = MappedMemory.AllocateAnonymous(4096, hugePages: false);
        MappedMemory window = (MappedMemory)memory;
        ClientImport import = other.Attach(descriptor);
        Assert.Equal(Errno.EDQUOT, Refusal(() => other.Attach(descriptor)));
        Assert.Equal(Errno.EDQUOT, Refusal(() => nic.Register(buffer, 0, 4096, ClientRegionAccess.RemoteRead)));
        Assert.Equal(2, Of(BrokerAccount.Buffers)); // that of the attachment, and no trace of what was refused

        using (buffer.Map())
        {
            Assert.Equal(Errno.EDQUOT, Refusal(() => import.MapInto(window)));
            Assert.Equal(Errno.EINVAL, Refusal(() => import.Release(window)));
        }

        import.MapInto(window);
        Assert.Equal(Errno.EDQUOT, Refusal(() => buffer.Map()));
        Assert.Equal((1L, 1L), (Of(BrokerAccount.Keys), Of(BrokerAccount.Mappings)));
        import.Release(window);
        buffer.Map().Dispose();
        import.MapInto(window);
        window.ReplaceByPrivate(0, 4096);
        import.Dispose(); // mapped: what its connection had is given back with it
        await UntilAsync("its key is given back", () => Of(BrokerAccount.Keys) == 0);
        nic.Register(buffer, 0, 4096, ClientRegionAccess.RemoteRead).Dispose();
        descriptor.Dispose();
        await ExpectNothingAsync(one, other);
    }

    [Fact]
    public async Task Who_leaves_too_much_in_quarantine_gets_no_more_until_it_is_free()
    {
        ForeignProgram mapper = await StartAsync();
        BrokerClient one = BrokerClient.Connect(Server.SocketPath, "one");
        ClientDevice gpu = one.OpenDevice("gpu0");
        ClientBuffer buffer = gpu.Allocate("x", 8192);
        FileDescriptor descriptor = buffer.Export();
        int taken = await GiveAsync(mapper, descriptor);
        descriptor.Dispose();
        int number = await mapper.OkAsync($"import {taken}");
        await mapper.OkAsync($"map {number} 8192");
        Assert.Contains(
            "\"sufficient\":false", buffer.Revoke(TimeSpan.FromMilliseconds(1)), StringComparison.Ordinal);
        Assert.Equal(8192, Of(BrokerAccount.QuarantinedBytes));
        Assert.Equal(Errno.EDQUOT, Refusal(() => gpu.Allocate("y", 4096)));
        mapper.Kill();
        await UntilAsync("it is free", () => Of(BrokerAccount.QuarantinedBytes) == 0);
        gpu.Allocate("y", 4096).Dispose();
        await ExpectNothingAsync(one);
    }

    private long Of(BrokerAccount account) => AccountOf(Environment.ProcessId, account);

    // The program is this one, which lives on.
    private async Task ExpectNothingAsync(params BrokerClient[] clients)
    {
        Array.ForEach(clients, c => c.Dispose());
        await UntilAsync(
            "its account is empty", () => Array.TrueForAll(Enum.GetValues<BrokerAccount>(), a => Of(a) == 0));
        Assert.DoesNotContain(Host.GetViolations(), v => v.Kind != Core.Checking.ViolationKind.LateUnmap);
    }

    private static Errno Refusal(Action action) => Assert.Throws<BrokerException>(action).Errno;

    private static Errno Refusal<T>(Func<T> action) => Refusal(() => { action(); });
}
