using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Ethernet;

/// <summary>
/// A host whose GPU lends its only buffer to a receive queue of a NIC, one connection that is steered there, and its
/// reader. Segment n of the peer is filled with the byte n, so that a reader sees what became of it.
/// </summary>
internal sealed class NicWorld : INicHost
{
    public const int Page = NicOptions.PageBytes;

    private const int BoundQueue = 1;
    private const ushort PeerPort = 40000;
    private const ushort OurPort = 5201;

    private static readonly MacAddress s_ours = new(0x02_57_4C_00_00_01);
    private static readonly MacAddress s_theirs = new(0x02_57_4C_00_00_02);

    private static readonly VirtioNetHeader s_vouched = new() { Flags = VirtioNetFlags.DataValid };

    private readonly List<Held> _held = [];
    private readonly Queue<(DevmemFragment Place, byte Number)> _unread = [];
    private byte _sent;

    /// <param name="choices">Of the run.</param>
    /// <param name="pages">Of the buffer: as many chunks.</param>
    /// <param name="kind">How it is bound.</param>
    /// <param name="defences">Of the NIC.</param>
    public NicWorld(Choices choices, int pages, ImporterKind kind, NicDefences defences)
    {
        World = new World(choices, bufferBytes: pages * Page);
        NicOptions options = new()
        {
            Address = s_ours,
            Channels = 2,
            ChannelsMax = 2,
            RingEntries = 4,
            HostPoolBytes = Page,
            FallbackPoolBytes = 4 * Page,
            Steering = new SteeringOptions { TableEntries = 4, Rules = 4 },
            Defences = defences,
        };
        Nic = new NicDevice(World.Host, World.Fabric, new PciFunction("0000:05:00.0", "nic0"), options);
        Connection = new DevmemReceiveQueue(defences);
        Enter();
        World.Require(Errno.Success, Nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0)));
        World.Require(Errno.Success, Port.Steering.Change(0, RssChange.Equal(1, 4)));
        FlowRule rule = FlowRule.ForPort(FlowType.TcpIPv4, OurPort, BoundQueue);
        World.Require(Errno.Success, Port.Steering.InsertRule(rule, out _));
        Binding = Bind(kind);
        Port.Exit();
    }

    public World World { get; }

    public NicDevice Nic { get; }

    public NicPort Port => Nic.Port;

    public MemoryBinding Binding { get; }

    public DevmemReceiveQueue Connection { get; }

    /// <summary>Pieces that the reader holds by token.</summary>
    public int HeldCount => _held.Count;

    TimeSpan? INicHost.NextDeadline => null;

    /// <summary>Takes the port token, which nobody else has between two steps.</summary>
    public void Enter()
    {
        if (!Port.TryEnter())
        {
            throw new ViolationException("somebody kept the port token");
        }
    }

    /// <summary>The peer sends a segment, and the NIC puts it into its ring.</summary>
    public void Arrive(int payloadBytes)
    {
        byte[] frame = Segment(++_sent, payloadBytes);
        Enter();
        Port.HandleFrame(frame, s_vouched, World.Clock.Now);
        Port.Exit();
    }

    /// <summary>
    /// The peer sends a segment, and the link reads it straight into the bound memory, a quarter at each step. The
    /// port token is held until the end, as it is by who drives.
    /// </summary>
    public IEnumerable<Step> ArriveScattered(int payloadBytes)
    {
        yield return "begin the read";
        Enter();
        byte[] frame = Segment(++_sent, payloadBytes);
        ScatterRead read = Port.Scatter;
        if (!read.TryBegin(Port.Queues[BoundQueue], SuperFrame.BufferBytes))
        {
            Port.HandleFrame(frame, s_vouched, World.Clock.Now);
            Port.Exit();
            yield break;
        }

        byte[] host = new byte[frame.Length];
        frame.AsSpan(0, read.HeadBytes).CopyTo(host);
        for (int quarter = 0; quarter < 4; quarter++)
        {
            yield return $"the kernel writes quarter {quarter + 1}";
            int from = read.HeadBytes + (quarter * payloadBytes / 4);
            Write(read, frame.AsSpan(0, read.HeadBytes + ((quarter + 1) * payloadBytes / 4)), from);
        }

        yield return "take the frame";
        read.Handle(host, s_vouched, World.Clock.Now);
        Port.Exit();
    }

    /// <summary>The connection takes what is in the ring.</summary>
    public void Deliver()
    {
        Enter();
        Port.Deliver(this, 8, World.Clock.Now);
        Port.Exit();
    }

    /// <summary>The reader takes all that there is; every piece holds what was sent.</summary>
    /// <returns>Whether it came as device memory or as nothing: false when the memory was taken back.</returns>
    public bool Read()
    {
        Enter();
        DevmemFragment[] fragments = new DevmemFragment[8];
        Errno errno = Connection.Receive(
            ReceiveFlags.Devmem, int.MaxValue, new byte[8 * Page], fragments, out ReceiveResult result);
        Port.Exit();
        foreach (DevmemFragment fragment in fragments.AsSpan(0, result.Fragments))
        {
            if (fragment.Kind == DevmemFragmentKind.DmaBuf)
            {
                _held.Add(new Held(fragment, Peek(fragment)));
                RequireSent(fragment);
            }
        }

        return errno != Errno.ENODEV;
    }

    /// <summary>The reader looks at all that it holds, and returns it.</summary>
    public Errno Return()
    {
        RequireHeldUnchanged();
        TokenRange[] ranges = [.. _held.Select(h => new TokenRange(h.Fragment.Token, 1))];
        _held.Clear();
        Enter();
        Errno errno = Connection.DontNeed(ranges, out _);
        Port.Exit();
        return errno;
    }

    /// <summary>Who bound the memory lets go of it.</summary>
    public void Unbind()
    {
        Enter();
        Nic.Unbind(Binding);
        Port.Exit();
    }

    /// <summary>The queue starts anew. What others hold stays theirs.</summary>
    public void Reset()
    {
        Enter();
        World.Require(Errno.Success, Nic.ResetQueue(BoundQueue));
        Port.Exit();
    }

    /// <summary>The socket is closed.</summary>
    public void Close()
    {
        Enter();
        Connection.Close();
        Port.Exit();
        _held.Clear();
    }

    /// <summary>Throws when a piece that the reader holds is not what it was.</summary>
    public void RequireHeldUnchanged()
    {
        foreach (Held held in _held)
        {
            if (!held.Bytes.AsSpan().SequenceEqual(Peek(held.Fragment)))
            {
                uint token = held.Fragment.Token;
                throw new ViolationException($"somebody has written to the bytes that token {token} names");
            }
        }
    }

    /// <summary>Throws when somebody still has a chunk, or when the memory is attached.</summary>
    public void RequireNothingLeft()
    {
        using (World.Host.Enter())
        {
            if (World.Lent.Shared.Attachments.Count > 0)
            {
                throw new ViolationException("nothing holds the memory, and it is still attached");
            }
        }

        if (Binding.State != BindingState.Released || (Binding.Pool.LiveChunks > 0 && !Binding.IsRevoked))
        {
            throw new ViolationException($"{Binding} is {Binding.State} with {Binding.Pool.LiveChunks} chunks in use");
        }
    }

    void INicHost.HandleFrame(ReceivedFrame frame, TimeSpan now)
    {
        byte number = (byte)frame.Layout.Tcp.Sequence;
        foreach (ref readonly PayloadFragment fragment in frame.Payload)
        {
            fragment.Retain();
            Connection.Append(fragment);
            if (fragment.IsDevice)
            {
                DevmemFragment place = new(
                    DevmemFragmentKind.DmaBuf, fragment.BufferOffset, (uint)fragment.LengthBytes, 0, 0);
                _unread.Enqueue((place, number));
            }
        }
    }

    void INicHost.HandleTimeout(TimeSpan now)
    {
    }

    void INicHost.HandleRoomChanged(TimeSpan now)
    {
    }

    void INicHost.HandleRevoked(MemoryBinding binding, TimeSpan now)
    {
        if (Connection.HoldsUnreadOf(binding))
        {
            Connection.Close();
            binding.CountReset();
        }
    }

    bool INicHost.PollTransmit(TimeSpan now, ref SuperFrame frame) => false;

    private static byte[] Segment(byte number, int payloadBytes)
    {
        const int Headers = EthernetHeader.Size + Ipv4Header.Size + TcpHeader.Size;
        byte[] frame = new byte[Headers + payloadBytes];
        new EthernetHeader(s_ours, s_theirs, EtherType.IPv4).WriteTo(frame);
        new Ipv4Header
        {
            TotalBytes = frame.Length - EthernetHeader.Size,
            TimeToLive = 64,
            Protocol = IpProtocol.Tcp,
            Source = IpAddress.FromIPv4(0x0A000002),
            Destination = IpAddress.FromIPv4(0x0A000001),
        }.WriteTo(frame.AsSpan(EthernetHeader.Size));
        new TcpHeader
        {
            SourcePort = PeerPort,
            DestinationPort = OurPort,
            Sequence = number,
            HeaderBytes = TcpHeader.Size,
            Flags = TcpFlags.Ack,
        }.WriteTo(frame.AsSpan(EthernetHeader.Size + Ipv4Header.Size));
        frame.AsSpan(Headers).Fill(number);
        return frame;
    }

    // What a read into several pieces does, from one byte of the frame to its end.
    private static void Write(ScatterRead read, ReadOnlySpan<byte> frame, int from)
    {
        int start = read.HeadBytes;
        for (int i = 0; i < read.Count && from < frame.Length; i++)
        {
            Span<byte> piece = read[i];
            int count = Math.Min(frame.Length, start + piece.Length) - from;
            if (count > 0)
            {
                frame.Slice(from, count).CopyTo(piece[(from - start)..]);
                from += count;
            }

            start += piece.Length;
        }
    }

    private MemoryBinding Bind(ImporterKind kind)
    {
        BindRequest request = new() { Queues = [BoundQueue], Kind = kind };
        while (true)
        {
            SharedBuffer buffer = World.Lent.Shared;
            AcquireTicket ticket;
            using (World.Host.Enter())
            {
                ticket = new AcquireTicket(World.Host, "bind");
                buffer.Reservation.TryLock(ticket);
            }

            BindOutcome outcome = Nic.BindLocked(ticket, buffer, request, out MemoryBinding? binding);
            using (World.Host.Enter())
            {
                buffer.Reservation.Unlock(ticket);
            }

            if (outcome.Wait is null)
            {
                World.Require(Errno.Success, outcome.Errno);
                return binding!;
            }

            World.Gpu.CopyEngine.Drive(int.MaxValue); // to a static importer the GPU shows system memory
        }
    }

    private byte[] Peek(in DevmemFragment fragment)
    {
        byte[] bytes = new byte[fragment.LengthBytes];
        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = World.Peek(World.Lent, (int)fragment.Offset + i);
        }

        return bytes;
    }

    // What was appended in one chunk may have become one piece.
    private void RequireSent(in DevmemFragment read)
    {
        for (uint at = 0; at < read.LengthBytes;)
        {
            (DevmemFragment place, byte number) = _unread.Dequeue();
            if (place.Offset != read.Offset + at)
            {
                throw new ViolationException($"read at {read.Offset + at} what was placed at {place.Offset}");
            }

            for (int i = 0; i < (int)place.LengthBytes; i++)
            {
                if (World.Peek(World.Lent, (int)place.Offset + i) is byte found && found != number)
                {
                    throw new ViolationException($"segment {number} was read as {found} before it was returned");
                }
            }

            at += place.LengthBytes;
        }
    }

    private sealed record Held(DevmemFragment Fragment, byte[] Bytes);
}
