using System.Runtime.InteropServices;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Linux.Tests.Broker;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>
/// A C program of libibverbs registers a buffer of a host's GPU by its descriptor, without a GPU; the host moves the
/// memory and takes it back.
/// </summary>
public sealed class HostBufferTests : BrokerTest
{
    private const int SizeBytes = 1 << 20;
    private const int RnrRetryExceeded = 13; // IBV_WC_RNR_RETRY_EXC_ERR
    private const int RemoteAccessError = ImportProgram.RemoteAccessError;
    private const int Endless = ImportProgram.Endless;

    protected override HostConfig Devices => base.Devices with
    {
        Gpus = [base.Devices.Gpus[0] with { SystemPoolBytes = 8 << 20 }],
    };

    private GpuHandle Gpu => Host.Gpus[0];

    [Fact]
    public async Task A_program_writes_into_a_buffer_of_a_GPU_and_follows_it_wherever_the_GPU_moves_it()
    {
        using Exporter owner = Export(ClientStorage.Movable);
        using ImportProgram program = Start(owner);
        program.Ask($"pair {Endless}");
        Assert.Equal(0, program.Ask("write 4096 17 8192"));
        Assert.Equal(8192, owner.Read().AsSpan().Count((byte)17));

        await MoveAsync(GpuDomain.System);
        program.Ask("pair 0");
        Assert.Equal(RnrRetryExceeded, program.Ask("write 4096 18 1")); // not mapped, and nobody waits
        program.Ask($"pair {Endless}");
        Assert.Equal(0, program.Ask("write 8192 18 4096"));
        Assert.Equal(0, program.Ask("read 4096 17 4096"));
        byte[] bytes = owner.Read();
        Assert.Equal((4096, 4096), (bytes.AsSpan().Count((byte)17), bytes.AsSpan().Count((byte)18)));

        await MoveAsync(GpuDomain.Vram);
        Assert.Equal(0, program.Ask("read 8192 18 4096"));
        program.Quit();
    }

    [Fact]
    public async Task No_write_that_completed_is_lost_while_the_buffer_moves_to_and_fro()
    {
        using Exporter owner = Export(ClientStorage.Movable);
        using ImportProgram program = Start(owner);
        program.Ask($"pair {Endless}");
        const int Slots = 1000;
        Task<int> counting = Task.Run(() => program.Ask($"count {Slots} 10"), Cancellation);
        int moves = 0;
        while (!counting.IsCompleted)
        {
            await MoveAsync(++moves % 2 == 0 ? GpuDomain.Vram : GpuDomain.System);
        }

        Assert.Equal(0, await counting);
        TestContext.Current.SendDiagnosticMessage("{0} moves", moves);
        ReadOnlySpan<long> slots = MemoryMarshal.Cast<byte, long>(owner.Read().AsSpan(0, Slots * sizeof(long)));
        for (int i = 0; i < Slots; i++)
        {
            Assert.Equal((9L * Slots) + i + 1, slots[i]);
        }

        program.Quit();
    }

    [Fact]
    public void A_revoke_kills_the_key_in_the_program_and_is_proven_by_the_kernels_word()
    {
        using Exporter owner = Export(ClientStorage.Movable);
        using ImportProgram program = Start(owner);
        program.Ask($"pair {Endless}");
        Assert.Equal(0, program.Ask("write 0 9 65536"));
        string proof = owner.Buffer.Revoke(Patience.Max);
        Assert.Contains("\"grade\":\"retired\"", proof, StringComparison.OrdinalIgnoreCase);
        Assert.Equal(RemoteAccessError, program.Ask("write 0 9 1"));
        program.Ask($"pair {Endless}");
        Assert.Equal(RemoteAccessError, program.Ask("read 0 9 1"));
        program.Quit();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)] // the defence is off
    public async Task Who_never_answers_does_not_hold_a_move_up_and_writes_into_nobody_elses_memory(bool replacesPages)
    {
        Server.Store.Importers.AnswerMax = TimeSpan.FromMilliseconds(50);
        using Exporter owner = Export(ClientStorage.Movable);
        FollowingPages pages = Server.Store.Buffers.AllLocked.Single(b => b.Shared.Name == "theirs").FollowingPages!;
        pages.ReplacesPages = replacesPages;
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "deaf");
        using ClientImport deaf = client.Attach(owner.Descriptor);
        using IDisposable window = MappedMemory.AllocateAnonymous(SizeBytes, hugePages: false);
        MappedMemory seen = (MappedMemory)window;
        deaf.MapInto(seen);
        seen.GetSpan()[0] = 5;
        DeviceRange old = BufferOf("theirs").Placement.Blocks[0].Range;
        await MoveAsync(GpuDomain.System);

        using ClientBuffer next = owner.Gpu.Allocate("next", SizeBytes, ClientStorage.Revocable);
        Assert.Equal(old, BufferOf("next").Placement.Blocks[0].Range);
        Assert.DoesNotContain((byte)3, owner.Read(next)); // and it was cleared before
        seen.GetSpan().Fill(3);
        Assert.Equal(!replacesPages, owner.Read(next).Contains((byte)3));
        Assert.Equal(5, owner.Read()[0]);
        Assert.Equal(Errno.ENODEV, Assert.Throws<BrokerException>(() => deaf.MapInto(seen)).Errno);
    }

    [Fact]
    public void Who_never_answers_a_revoke_has_zeros_at_the_deadline_and_the_proof_says_so()
    {
        using Exporter owner = Export(ClientStorage.Movable);
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "deaf");
        using ClientImport deaf = client.Attach(owner.Descriptor);
        using IDisposable window = MappedMemory.AllocateAnonymous(SizeBytes, hugePages: false);
        MappedMemory seen = (MappedMemory)window;
        deaf.MapInto(seen);
        seen.GetSpan()[0] = 5;
        string proof = owner.Buffer.Revoke(TimeSpan.FromMilliseconds(50));
        Assert.Contains("\"grade\":\"drained\"", proof, StringComparison.OrdinalIgnoreCase);
        Assert.Equal(0, seen.GetSpan()[0]);
        Assert.Equal(Errno.ENODEV, Assert.Throws<BrokerException>(() => client.Attach(owner.Descriptor)).Errno);
    }

    [Fact]
    public void A_program_that_is_killed_is_out_by_the_word_of_the_kernel()
    {
        using Exporter owner = Export(ClientStorage.Movable);
        using ImportProgram program = Start(owner);
        program.Kill();
        string proof = owner.Buffer.Revoke(Patience.Max);
        Assert.Contains("\"grade\":\"retired\"", proof, StringComparison.OrdinalIgnoreCase);
    }

    [Theory]
    [InlineData(ClientStorage.Mappable, Errno.Success)]
    [InlineData(ClientStorage.Withdrawable, Errno.Success)]
    [InlineData(ClientStorage.Revocable, Errno.EOPNOTSUPP)]
    [InlineData(ClientStorage.Fixed, Errno.EOPNOTSUPP)]
    public void Storage_that_has_pages_can_be_registered(ClientStorage storage, Errno expected)
    {
        using Exporter owner = Export(storage);
        using ImportProgram program = Start(owner, expected);
        if (expected == Errno.Success)
        {
            program.Ask($"pair {Endless}");
            Assert.Equal(0, program.Ask("write 0 9 65536"));
            Assert.Equal(65536, owner.Read().AsSpan().Count((byte)9));
            program.Quit();
        }
    }

    private ImportProgram Start(Exporter owner, Errno expected = Errno.Success) =>
        new(Path.Combine(Root, Path.GetRandomFileName()), Server.SocketPath, owner.Descriptor, SizeBytes, expected);

    private Exporter Export(ClientStorage storage) => new(Server.SocketPath, storage);

    private async Task MoveAsync(GpuDomain target)
    {
        MoveOperation move;
        using (Host.Context.Enter())
        {
            move = Gpu.Device.Move(BufferOf("theirs"), target);
        }

        await Gpu.WaitAsync(move).WaitAsync(Patience.Max, Cancellation);
        Assert.Equal(Errno.Success, move.Error);
    }

    private GpuBuffer BufferOf(string name) => ((GpuObjectMemory)Server.Store.Buffers.AllLocked
        .Single(b => b.Shared.Name == name).Memory).Buffer;

    /// <summary>
    /// Who has the GPU: it allocates the buffer, and looks at its bytes by a copy of the GPU's engine.
    /// </summary>
    private sealed class Exporter : IDisposable
    {
        private readonly BrokerClient _client;

        public Exporter(string broker, ClientStorage storage)
        {
            _client = BrokerClient.Connect(broker, "exporter");
            Gpu = _client.OpenDevice("gpu0");
            Buffer = Gpu.Allocate("theirs", SizeBytes, storage);
            Descriptor = Buffer.Export();
        }

        public ClientDevice Gpu { get; }

        public ClientBuffer Buffer { get; }

        public FileDescriptor Descriptor { get; }

        public byte[] Read() => Read(Buffer);

        public byte[] Read(ClientBuffer buffer)
        {
            using ClientBuffer look = Gpu.Allocate("look", SizeBytes);
            using ClientMapping mapped = look.Map();
            using ClientFence copied = Gpu.Copy(buffer, 0, look, 0, SizeBytes);
            copied.Wait(Patience.Max);
            return mapped.Memory.ToArray();
        }

        public void Dispose()
        {
            Descriptor.Dispose();
            _client.Dispose();
        }
    }
}
