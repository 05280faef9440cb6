using System.Runtime.InteropServices;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host.Broker;
using Wayleave.Host.Compute;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Work of engines that programs submit by the broker.</summary>
public sealed class EngineTests : BrokerTest
{
    private const int Size = 1 << 20;

    [Fact]
    public void Commands_write_to_what_was_bound_and_the_program_sees_it_without_a_copy()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientBuffer buffer = gpu.Allocate("x", Size);
        ClientBinding binding = gpu.Bind(buffer);
        using ClientQueue queue = gpu.OpenQueue("q");
        Assert.True(queue.UsesAddresses);
        using ClientFence spin = queue.Submit(Commands.Spin(16));
        using ClientFence fill = queue.Submit(Commands.Fill(binding.Address + 4096, 4096, 0x01020304), spin);
        ExpectResult(fill, Errno.Success);
        using ClientMapping mapping = buffer.Map();
        Span<uint> words = MemoryMarshal.Cast<byte, uint>(mapping.Memory.Span);
        Assert.Equal((0u, 0x01020304u, 0x01020304u, 0u), (words[1023], words[1024], words[2047], words[2048]));
    }

    [Fact]
    public void A_queue_of_the_copy_engine_goes_on_while_the_compute_engine_is_held_and_knows_no_kernel()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        Assert.Equal(2u, client.Version);
        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientBuffer buffer = gpu.Allocate("x", Size);
        ClientBinding binding = gpu.Bind(buffer);
        using ClientQueue compute = gpu.OpenQueue("c"), copy = gpu.OpenQueue("s", engine: ClientEngine.Copy);
        using ClientFence endless = compute.Submit(Commands.Spin(ulong.MaxValue));
        using ClientFence fill = copy.Submit(Commands.Fill(binding.Address, 4096, 7));
        ExpectResult(fill, Errno.Success);
        Assert.False(endless.Wait(TimeSpan.Zero));
        BrokerException refused = Assert.Throws<BrokerException>(
            () => copy.Submit((byte[])[.. Commands.Fill(binding.Address, 4096, 8), .. Commands.Spin(1)]));
        Assert.Equal(Errno.EINVAL, refused.Errno);
        Assert.Contains("command 1", refused.Message, StringComparison.Ordinal);
        using ClientMapping mapping = buffer.Map();
        Assert.Equal(7u, MemoryMarshal.Cast<byte, uint>(mapping.Memory.Span)[0]);
        Assert.Equal(
            ["compute", "copy"],
            Host.Compute.List().Single().Queues.Select(q => q.Queue.Engine.Kind.ToString().ToLowerInvariant()));
    }

    [Fact]
    public void A_command_that_reaches_what_was_not_bound_faults_and_garbage_is_refused_with_its_place()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using BrokerClient stranger = BrokerClient.Connect(Server.SocketPath, "stranger");
        ClientDevice gpu = client.OpenDevice("gpu0"), theirs = stranger.OpenDevice("gpu0");
        using ClientBuffer buffer = gpu.Allocate("x", Size);
        ClientBinding binding = gpu.Bind(buffer, FenceUse.Read);
        using ClientQueue queue = gpu.OpenQueue("q");
        using ClientFence readOnly = queue.Submit(Commands.Fill(binding.Address, 4096, 1));
        ExpectResult(readOnly, Errno.EACCES);
        using ClientQueue other = theirs.OpenQueue("q");
        using ClientFence fault = other.Submit(Commands.Fill(binding.Address, 4096, 1));
        ExpectResult(fault, Errno.EFAULT);
        using ClientQueue fresh = theirs.OpenQueue("fresh");
        byte[] garbage = Commands.Spin(1);
        garbage[0] = 77;
        BrokerException refused = Assert.Throws<BrokerException>(() => fresh.Submit(garbage));
        Assert.Equal(Errno.EINVAL, refused.Errno);
        Assert.Contains("command 0", refused.Message, StringComparison.Ordinal);
        using ClientMapping mapping = buffer.Map();
        Assert.False(mapping.Memory.Span.ContainsAnyExcept((byte)0));
    }

    [Fact]
    public void Work_that_was_submitted_keeps_its_buffers_whoever_closes_them()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0");
        ClientBuffer source = gpu.Allocate("source", Size);
        using ClientBuffer target = gpu.Allocate("target", Size);
        using (ClientMapping mapping = source.Map())
        {
            mapping.Memory.Span.Fill(0x5A);
        }

        using ClientQueue queue = gpu.OpenQueue("q");
        using ClientFence spin = queue.Submit(Commands.Spin(2000));
        using ClientFence copy = gpu.Copy(source, 0, target, 0, Size, spin);
        ClientBinding binding = gpu.Bind(source);
        using ClientFence fill = queue.Submit(Commands.Fill(binding.Address, 4096, 0), copy);
        gpu.Unbind(binding);
        source.Dispose();
        ExpectResult(copy, Errno.Success);
        ExpectResult(fill, Errno.Success);
        using ClientMapping seen = target.Map();
        Assert.False(seen.Memory.Span.ContainsAnyExcept((byte)0x5A));
    }

    [Fact]
    public async Task Memory_that_is_taken_back_is_taken_from_engines_too_and_the_proof_can_be_read_by_who_has_it()
    {
        using BrokerClient owner = BrokerClient.Connect(Server.SocketPath, "owner");
        using BrokerClient user = BrokerClient.Connect(Server.SocketPath, "user");
        ClientDevice gpu = user.OpenDevice("gpu0");
        using ClientBuffer lent = owner.OpenDevice("gpu0").Allocate("lent", Size, ClientStorage.Revocable);
        using FileDescriptor descriptor = lent.Export();
        using ClientBuffer taken = user.Import(descriptor);
        Assert.Equal(Errno.ENODATA, Refusal(taken.ReadProof));
        using ClientQueue queue = gpu.OpenQueue("q");
        ClientBinding binding = gpu.Bind(taken);
        byte[] commands = [.. Commands.Spin(ulong.MaxValue), .. Commands.Fill(binding.Address, 4096, 1)];
        using ClientFence job = queue.Submit(commands);
        using ClientFence copy = gpu.Copy(taken, 0, taken, 4096, 4096, job);

        string proof = lent.Revoke(Patience.Max);
        Assert.Contains("\"grade\":\"Retired\"", proof, StringComparison.Ordinal);
        ExpectResult(job, Errno.ECANCELED);
        ExpectResult(copy, Errno.ECANCELED);
        Assert.Equal(proof, taken.ReadProof());
        Assert.Equal(Errno.ENODEV, Refusal(() => gpu.Bind(taken)));
        Assert.Equal(Errno.ENODEV, Refusal(() => gpu.Copy(taken, 0, taken, 4096, 4096)));
        await UntilAsync("the memory is back", () => Find("lent") is null);
    }

    [Fact]
    public void Ranges_and_numbers_that_make_no_sense_are_refused_and_nothing_is_left()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0"), nic = client.OpenDevice("rdma0");
        using ClientBuffer buffer = gpu.Allocate("x", Size);
        Assert.Equal(Errno.EINVAL, Refusal(() => gpu.Copy(buffer, 0, buffer, 0, 0)));
        Assert.Equal(Errno.EINVAL, Refusal(() => gpu.Copy(buffer, 1, buffer, 0, Size)));
        Assert.Equal(Errno.EINVAL, Refusal(() => gpu.Copy(buffer, 0, buffer, ulong.MaxValue, 4096)));
        Assert.Equal(Errno.EBADF, Refusal(() => nic.Copy(buffer, 0, buffer, 0, 4096)));
        Assert.Equal(Errno.EBADF, Refusal(() => nic.OpenQueue("q")));
        Assert.Equal(Errno.EBADF, Refusal(() => nic.Allocate("x", 4096)));
        Assert.Equal(Errno.EINVAL, Refusal(() => gpu.OpenQueue("a queue")));
        Assert.Equal(Errno.EBADF, Refusal(() => gpu.Unbind(new ClientBinding(gpu, 77, 0))));
        Assert.Equal(1, Server.Store.Programs.AllLocked[0].Ledger[BrokerAccount.Buffers]);
        Assert.Equal(0, Server.Store.Programs.AllLocked[0].Ledger[BrokerAccount.Jobs]);
        Assert.Equal(1, Server.Store.Programs.AllLocked[0].Ledger[BrokerAccount.Queues]); // of the GPU's engine
    }

    [Fact]
    public async Task A_queue_that_is_closed_ends_its_work_and_is_nobodys_any_more()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0");
        for (int i = 0; i < 200; i++) // more than the GPU has
        {
            ClientQueue queue = gpu.OpenQueue("q");
            using ClientFence work = queue.Submit(Commands.Spin(2));
            queue.Dispose();
            ExpectResult(work, Errno.Success);
        }

        ComputeContext context = Host.Compute.List()[0];
        await UntilAsync("the last queue is gone", () =>
        {
            using (Host.Context.Enter())
            {
                return context.Queues.Count == 0 && context.Process.Queues.Count == 0;
            }
        });
    }

    [Fact]
    public async Task What_a_program_runs_ends_with_its_connection()
    {
        BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using ClientQueue queue = client.OpenDevice("gpu0").OpenQueue("q");
        using ClientFence spin = queue.Submit(Commands.Spin(ulong.MaxValue));
        Assert.Single(Host.Compute.List());
        client.Dispose();
        ExpectResult(spin, Errno.ECANCELED);
        await UntilAsync("its context is gone", () => Host.Compute.List() is not [ComputeContext]);
    }

    private static void ExpectResult(ClientFence fence, Errno errno)
    {
        Assert.True(fence.Wait(Patience.Max));
        Assert.True(fence.TryGetResult(out Errno error, out _));
        Assert.Equal(errno, error);
    }

    private static Errno Refusal(Action action) => Assert.Throws<BrokerException>(action).Errno;

    private static Errno Refusal<T>(Func<T> action) => Refusal(() => { action(); });
}
