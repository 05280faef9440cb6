using System.Buffers.Binary;
using System.Text;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Connections;

// librdmacm/examples/rping.c is the protocol. Notices are 16 bytes: address, key and length of a buffer, big endian.
//
//   client                            server
//   SEND notice of the source  -->    READ the source
//                              <--    SEND (any 16 bytes)
//   SEND notice of the sink    -->    WRITE the sink
//                              <--    SEND (any 16 bytes)
//   compare, and again
//
// The object: two receives and a send of 16 bytes each, then the source, then the sink.

/// <summary>One side of rping, over memory of a device.</summary>
public sealed class Rping : IAsyncDisposable
{
    /// <summary>The port that rping connects to unless it is told otherwise.</summary>
    public const ushort DefaultPort = 7174;

    /// <summary>The smallest message: the text with its number.</summary>
    public const int SizeMin = 23;

    /// <summary>rping takes no longer ones (and says in its help that it takes one byte more).</summary>
    public const int SizeMax = (64 << 10) - 1;

    private const int NoticeBytes = 16;
    private const int SendOffset = 2 * NoticeBytes;
    private const int SourceOffset = 4096;
    private const int BufferBytes = 64 << 10;
    private const int SinkOffset = SourceOffset + BufferBytes;
    private const ulong ObjectBytes = SinkOffset + BufferBytes;
    private const ulong NoticeId = 2;
    private const ulong TransferId = 3;

    private readonly NicHandle _nic;
    private readonly MemoryRegion _region;
    private readonly DmaPort _processor;
    private readonly DeviceObject _object;
    private readonly PeerWait _completions;
    private readonly Queue<Notice> _received = [];
    private uint _nextReceive;

    private Rping(NicHandle nic, DeviceObject o, MemoryRegion region, DmaPort processor)
    {
        (_nic, _object, _region, _processor) = (nic, o, region, processor);
        CompletionWait completions = new(nic, 16);
        Pair = nic.CreateQueuePair(
            region.Domain, completions.Queue, new QueuePairCapabilities { MaxSendWr = 16, MaxReceiveWr = 4 });
        _completions = new PeerWait(completions, Pair);
    }

    /// <summary>Ends with this object.</summary>
    public QueuePair Pair { get; }

    /// <summary>
    /// What both sides ask for: one READ at a time, and writes and reads of the peer.
    /// </summary>
    public static CmParameters Parameters { get; } = new() { ResponderResources = 1, InitiatorDepth = 1 };

    /// <summary>Makes buffers and a queue pair with its receives posted.</summary>
    /// <param name="host">Whose first GPU holds the buffers.</param>
    /// <param name="nic">Of that host.</param>
    public static async Task<Rping> OpenAsync(WayleaveHost host, NicHandle nic)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(nic);
        DeviceObject o = await host.Objects.CreateAsync(
            host.Gpus[0].Name, "rping", ObjectBytes, StorageKind.Movable).ConfigureAwait(false);
        MemoryRegion region = await nic.RegisterAsync(
            nic.Device.CreateProtectionDomain(),
            o.Buffer,
            new MemoryRegionRequest(
                0,
                ObjectBytes,
                0x10_0000,
                AccessFlags.LocalWrite | AccessFlags.RemoteRead | AccessFlags.RemoteWrite,
                ImporterKind.Dynamic),
            o.Owner.Function).ConfigureAwait(false);
        Rping rping = new(nic, o, region, new DmaPort(host.Fabric.Processor));
        nic.Connections.Prepare(rping.Pair, Parameters);
        rping.PostReceive();
        rping.PostReceive();
        return rping;
    }

    /// <summary>Sends texts and compares what comes back, as <c>rping -c</c> does.</summary>
    /// <param name="count">How often; 0 is for ever.</param>
    /// <param name="size">Bytes of a text, with its end.</param>
    /// <param name="done">Told each text that came back.</param>
    /// <param name="cancellation">Ends the run where it is; disconnect afterwards.</param>
    /// <exception cref="WayleaveException">EIO: the data differs; else how a request ended.</exception>
    public async Task RunClientAsync(
        int count, int size, Action<string>? done = null, CancellationToken cancellation = default)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(size, SizeMin);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(size, SizeMax);
        byte[] text = new byte[size];
        for (int ping = 0; count == 0 || ping < count; ping++)
        {
            FillText(text, ping);
            text.CopyTo(Bytes(SourceOffset, size));
            SendNotice(SourceOffset, size);
            await ReceiveAsync(cancellation).ConfigureAwait(false);
            SendNotice(SinkOffset, size);
            await ReceiveAsync(cancellation).ConfigureAwait(false);
            if (!Bytes(SinkOffset, size).SequenceEqual(text))
            {
                throw new WayleaveException(Errno.EIO, $"rping {ping}", "what came back differs from what was sent");
            }

            done?.Invoke(Encoding.ASCII.GetString(text, 0, size - 1));
        }
    }

    /// <summary>Fetches texts and writes them back until the peer disconnects, as <c>rping -s</c> does.</summary>
    /// <param name="connection">Of <see cref="Pair"/>.</param>
    /// <param name="done">Told each text.</param>
    /// <param name="cancellation">Ends the run where it is; disconnect afterwards.</param>
    /// <returns>How many texts.</returns>
    /// <exception cref="WayleaveException">How a request ended, or EPROTO for a notice that is none.</exception>
    public async Task<int> RunServerAsync(
        RdmaConnection connection, Action<string>? done = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(connection);
        int count = 0;
        while (await TryReceiveAsync(connection.Ended, cancellation).ConfigureAwait(false) is { } from)
        {
            RequireSane(from);
            if (!await TryTransferAsync(
                WorkRequestOpcode.RdmaRead, from, from.LengthBytes, connection.Ended, cancellation)
                .ConfigureAwait(false))
            {
                break;
            }

            string text = TextOf((int)from.LengthBytes);
            done?.Invoke(text);
            count++;
            SendNotice(SourceOffset, (int)from.LengthBytes);
            if (await TryReceiveAsync(connection.Ended, cancellation).ConfigureAwait(false) is not { } to)
            {
                break;
            }

            RequireSane(to);
            uint length = Math.Min((uint)text.Length + 1, to.LengthBytes);
            if (!await TryTransferAsync(WorkRequestOpcode.RdmaWrite, to, length, connection.Ended, cancellation)
                .ConfigureAwait(false))
            {
                break;
            }

            SendNotice(SourceOffset, (int)length);
        }

        return count;
    }

    /// <summary>Disconnect before.</summary>
    public async ValueTask DisposeAsync()
    {
        _nic.Destroy(Pair);
        await _nic.DeregisterAsync(_region).ConfigureAwait(false);
    }

    // As rping's: a number, then printable characters that start one later each time, and a zero.
    private static void FillText(Span<byte> text, int ping)
    {
        int start = 65 + ping % (122 - 65 + 1);
        int at = Encoding.ASCII.GetBytes($"rdma-ping-{ping}: ", text);
        for (int c = start; at < text.Length; at++)
        {
            text[at] = (byte)c;
            c = c == 122 ? 65 : c + 1;
        }

        text[^1] = 0;
    }

    private string TextOf(int lengthBytes)
    {
        Span<byte> bytes = Bytes(SourceOffset, lengthBytes);
        int end = bytes.IndexOf((byte)0);
        return Encoding.ASCII.GetString(end < 0 ? bytes : bytes[..end]);
    }

    // Reads the notice and posts its receive again.
    private Notice TakeNotice(in WorkCompletion completion)
    {
        Span<byte> bytes = Bytes((int)(completion.WrId >> 8) * NoticeBytes, NoticeBytes);
        Notice notice = new(
            BinaryPrimitives.ReadUInt64BigEndian(bytes),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[8..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[12..]),
            completion.ByteLength);
        PostReceive();
        return notice;
    }

    private static void RequireSane(in Notice notice)
    {
        if (notice.MessageBytes != NoticeBytes || notice.LengthBytes > SizeMax)
        {
            throw new WayleaveException(
                Errno.EPROTO,
                "rping",
                $"a message of {notice.MessageBytes} bytes about {notice.LengthBytes} bytes is no notice");
        }
    }

    private void SendNotice(int offset, int lengthBytes)
    {
        Span<byte> bytes = Bytes(SendOffset, NoticeBytes);
        BinaryPrimitives.WriteUInt64BigEndian(bytes, _region.Iova + (ulong)offset);
        BinaryPrimitives.WriteUInt32BigEndian(bytes[8..], _region.Key);
        BinaryPrimitives.WriteUInt32BigEndian(bytes[12..], (uint)lengthBytes);
        Post(new SendWorkRequest { WrId = NoticeId, Opcode = WorkRequestOpcode.Send }, SendOffset, NoticeBytes);
    }

    // False when the peer has disconnected before.
    private async Task<bool> TryTransferAsync(
        WorkRequestOpcode opcode, Notice remote, uint lengthBytes, Task ended, CancellationToken cancellation)
    {
        Post(
            new SendWorkRequest
            {
                WrId = TransferId,
                Opcode = opcode,
                RemoteAddress = remote.Address,
                RKey = remote.Key,
            },
            SourceOffset,
            lengthBytes);
        while (await PollAsync(ended, cancellation).ConfigureAwait(false) is { } completion)
        {
            if (completion.WrId == TransferId)
            {
                return true;
            }

            _received.Enqueue(TakeNotice(completion));
        }

        return false;
    }

    private async Task<Notice> ReceiveAsync(CancellationToken cancellation) =>
        await TryReceiveAsync(ended: null, cancellation).ConfigureAwait(false)
        ?? throw new InvalidOperationException("a wait without an end has ended");

    private async Task<Notice?> TryReceiveAsync(Task? ended, CancellationToken cancellation)
    {
        if (_received.TryDequeue(out Notice waiting))
        {
            return waiting;
        }

        WorkCompletion? received = await PollAsync(ended, cancellation).ConfigureAwait(false);
        return received is { } completion ? TakeNotice(completion) : null;
    }

    private async Task<WorkCompletion?> PollAsync(Task? ended, CancellationToken cancellation)
    {
        while (await _completions.NextAsync(ended, cancellation).ConfigureAwait(false) is { } completion)
        {
            if (completion.Status == WorkCompletionStatus.Success)
            {
                if (completion.WrId != NoticeId)
                {
                    return completion;
                }

                continue;
            }

            if (ended is not null && completion.Status == WorkCompletionStatus.WorkRequestFlushed)
            {
                await ended.WaitAsync(cancellation).ConfigureAwait(false);
                return null;
            }

            // Nothing failed before what is flushed, so the peer has ended the connection.
            throw completion.Status == WorkCompletionStatus.WorkRequestFlushed
                ? new WayleaveException(Errno.ECONNRESET, $"rping over {Pair.Name}", "the peer has disconnected")
                : new WayleaveException(
                    Errno.EIO, $"rping over {Pair.Name}", $"a request ended with {completion.Status}");
        }

        return null;
    }

    private void PostReceive()
    {
        uint slot = _nextReceive++ % 2;
        Errno errno = Pair.PostReceive(
            new ReceiveWorkRequest((ulong)slot << 8),
            new Sge(_region.Iova + slot * NoticeBytes, NoticeBytes, _region.Key));
        errno.ThrowIfFailed($"post a receive on {Pair.Name}");
    }

    private void Post(in SendWorkRequest request, int offset, uint lengthBytes)
    {
        Sge sge = new(_region.Iova + (ulong)offset, lengthBytes, _region.Key);
        Pair.PostSend(request with { Flags = SendFlags.Signaled }, sge).ThrowIfFailed($"post on {Pair.Name}");
        _nic.Driver.TryProgress();
    }

    private Span<byte> Bytes(int offset, int lengthBytes)
    {
        Span<byte> bytes = default;
        bool found = _object.Memory.Addresses.TryLocate((ulong)offset, out DeviceAddress start, out ulong contiguous)
            && contiguous >= (ulong)lengthBytes
            && _processor.TryWrite(start, lengthBytes, out bytes) == Errno.Success;
        return found && bytes.Length == lengthBytes
            ? bytes
            : throw new InvalidOperationException($"{lengthBytes} bytes at {offset} of {_object} are not in one piece");
    }

    private readonly record struct Notice(ulong Address, uint Key, uint LengthBytes, uint MessageBytes);
}
