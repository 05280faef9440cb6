using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Ethernet;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>A GPU in the fabric of a peer's NIC, what is bound of it, and what a reader finds there.</summary>
internal sealed class PeerGpu
{
    /// <summary>The port that <see cref="Steer(FlowType)"/> sends to the bound queue.</summary>
    public const ushort Port = 5201;

    public const int Page = 4096;

    /// <summary>The queue that <see cref="BindReceive"/> binds unless others are named.</summary>
    public const int Queue = 2;

    private readonly KernelPeer _peer;
    private readonly PciFunction _function;
    private readonly GpuDevice _device;
    private readonly DmaPort _dma;
    private GpuBuffer? _buffer;

    public PeerGpu(KernelPeer peer, int number = 0, int megabytes = 8)
    {
        _peer = peer;
        _function = new PciFunction($"0000:{3 + (16 * number):x2}:00.0", $"gpu{number}");
        using (peer.Host.Enter())
        {
            _device = new GpuDevice(
                peer.Host,
                peer.Fabric,
                _function,
                new GpuOptions { CopyBlockBytes = Page },
                [GC.AllocateArray<byte>(megabytes << 20, pinned: true)], // the kernel may write there by itself
                [new byte[8 << 20]]);
        }

        _dma = new DmaPort(_function);
    }

    /// <summary>
    /// Switches header split on, keeps RSS off the queues from 2 on, and binds a new buffer to queues.
    /// </summary>
    public MemoryBinding BindReceive(int pages, bool steers = true, params int[] queues)
    {
        NicDevice nic = _peer.Nic.Device;
        GpuBuffer buffer = Create(pages);
        MemoryBinding? binding = null;
        _peer.Nic.Driver.WithToken(() =>
        {
            Assert.Equal(Errno.Success, nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0)));
            Assert.Equal(
                Errno.Success,
                nic.Port.Steering.Change(0, RssChange.Equal(Queue, nic.Port.Steering.Main.Table.Length)));
            BindRequest request = new()
            {
                Queues = queues.Length == 0 ? [Queue] : queues,
                Kind = ImporterKind.PinnedRevocable,
                Provider = _function,
            };
            BindOutcome outcome = Reserved(
                buffer, ticket => nic.BindLocked(ticket, buffer.Shared, request, out binding));
            Assert.Equal((Errno.Success, ""), (outcome.Errno, outcome.Explanation));
        });
        if (steers)
        {
            Steer(FlowType.TcpIPv4);
            Steer(FlowType.TcpIPv6);
        }

        return binding!;
    }

    /// <summary>Every connection to <see cref="Port"/> goes to <see cref="Queue"/>.</summary>
    public int Steer(FlowType type) => Insert(FlowRule.ForPort(type, Port, Queue));

    /// <summary>
    /// One connection goes to a queue from its next segment on, as ncdevmem does it once it has accepted.
    /// </summary>
    public void Steer(in TcpFlow flow, int queue = Queue) => Insert(
        FlowRule.ForConnection(flow.Remote, flow.RemotePort, flow.Local, flow.LocalPort, queue));

    public TransmitBinding BindTransmit(byte[] content)
    {
        GpuBuffer buffer = Create(content.Length / Page);
        int at = 0;
        foreach (DeviceRange range in buffer.Placement.LocalAddresses.Entries)
        {
            int length = (int)range.LengthBytes;
            Assert.Equal(Errno.Success, _dma.TryWrite(range.Start, length, out Span<byte> span));
            content.AsSpan(at, length).CopyTo(span);
            at += length;
        }

        TransmitBinding? binding = null;
        _peer.Nic.Driver.WithToken(() =>
        {
            BindOutcome outcome = Reserved(
                buffer,
                ticket => _peer.Nic.Device.BindTransmitLocked(
                    ticket,
                    buffer.Shared,
                    new BindRequest { Kind = ImporterKind.PinnedRevocable },
                    out binding));
            Assert.Equal((Errno.Success, ""), (outcome.Errno, outcome.Explanation));
        });
        return binding!;
    }

    /// <summary>What a reader finds at a piece, through the GPU's own addresses.</summary>
    public byte[] Read(DevmemFragment fragment)
    {
        byte[] bytes = new byte[fragment.LengthBytes];
        ulong start = 0;
        int done = 0;
        foreach (DeviceRange range in _buffer!.Placement.LocalAddresses.Entries)
        {
            ulong from = fragment.Offset + (ulong)done;
            if (done < bytes.Length && from < start + range.LengthBytes)
            {
                int length = (int)Math.Min((ulong)(bytes.Length - done), start + range.LengthBytes - from);
                Assert.Equal(
                    Errno.Success,
                    _dma.TryRead(
                        new DeviceAddress(range.Start.Value + (from - start)),
                        length,
                        out ReadOnlySpan<byte> span));
                span.CopyTo(bytes.AsSpan(done));
                done += length;
            }

            start += range.LengthBytes;
        }

        Assert.Equal(bytes.Length, done);
        return bytes;
    }

    /// <summary>Hash of what is left, wherever it lies, and how much of it was copied for us.</summary>
    /// <param name="connection">Read to its end, or until the token is canceled.</param>
    /// <param name="until">Ends it.</param>
    /// <param name="count">Told of every read.</param>
    public async Task<(string Hash, long Linear)> HashAllAsync(
        DevmemConnection connection, CancellationToken until, Action<long>? count = null)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] linear = new byte[256 << 10];
        DevmemFragment[] fragments = new DevmemFragment[64];
        TokenRange[] back = new TokenRange[64];
        long copied = 0;
        while (true)
        {
            ReceiveResult result = await ReadAsync(connection, linear, fragments, count is not null, until);
            if (result.Bytes == 0)
            {
                return (Convert.ToHexString(hash.GetHashAndReset()), copied);
            }

            // One call returns bytes of bound queues or bytes of others.
            int at = 0, tokens = 0;
            if (result.Fragments == 0)
            {
                hash.AppendData(linear.AsSpan(0, result.LinearBytes));
            }

            for (int i = 0; i < result.Fragments; i++)
            {
                if (fragments[i].Kind == DevmemFragmentKind.Linear)
                {
                    hash.AppendData(linear.AsSpan(at, (int)fragments[i].LengthBytes));
                    at += (int)fragments[i].LengthBytes;
                    continue;
                }

                hash.AppendData(Read(fragments[i]));
                back[tokens++] = new TokenRange(fragments[i].Token, 1);
            }

            copied += result.LinearBytes;
            Assert.Equal(tokens, connection.ReturnTokens(back.AsSpan(0, tokens)));
            count?.Invoke(result.Bytes);
        }
    }

    private static async Task<ReceiveResult> ReadAsync(
        DevmemConnection connection,
        byte[] linear,
        DevmemFragment[] fragments,
        bool endsQuietly,
        CancellationToken until)
    {
        try
        {
            return await connection.ReadAsync(linear, fragments, until);
        }
        catch (OperationCanceledException) when (endsQuietly)
        {
            return default; // the caller has counted all that it waited for
        }
    }

    private int Insert(FlowRule rule)
    {
        int location = 0;
        _peer.Nic.Driver.WithToken(() => Assert.Equal(
            Errno.Success, _peer.Nic.Device.Port.Steering.InsertRule(rule, out location)));
        return location;
    }

    private GpuBuffer Create(int pages)
    {
        GpuBuffer? made = null;
        using (_peer.Host.Enter())
        {
            Assert.Equal(
                Errno.Success,
                _device.TryCreate(new GpuBufferInfo("rx", (ulong)(pages * Page), StorageKind.Movable), out made));
        }

        _device.CopyEngine.Drive(int.MaxValue);
        _buffer = made;
        return made!;
    }

    private BindOutcome Reserved(GpuBuffer buffer, Func<AcquireTicket, BindOutcome> bind)
    {
        AcquireTicket ticket;
        using (_peer.Host.Enter())
        {
            ticket = new AcquireTicket(_peer.Host, "bind");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Shared.Reservation.TryLock(ticket).Kind);
        }

        BindOutcome outcome = bind(ticket);
        using (_peer.Host.Enter())
        {
            buffer.Shared.Reservation.Unlock(ticket);
        }

        return outcome;
    }
}
