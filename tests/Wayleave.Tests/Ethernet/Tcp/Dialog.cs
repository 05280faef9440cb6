using System.Globalization;
using System.Text.RegularExpressions;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Tcp.Wire;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

// Segments are written as packetdrill does: flags (S F R P, a dot for ACK, - for none), sequence numbers relative to
// the sender's SYN, ack relative to the other's, options in angle brackets. What an expectation leaves out is not
// compared.
//
//   "S 0:0(0) win 65535 <mss 1000,sackOK,TS val 100 ecr 0,nop,wscale 7>"
//   "P. 1:1001(1000) ack 1 win 257"

/// <summary>A scripted peer that talks to one endpoint, segment by segment, on virtual time.</summary>
internal sealed partial class Dialog : IReceiveRoom
{
    public const ushort OwnPort = 80;
    public const ushort PeerPort = 40000;
    public const uint PeerInitial = 0xFFFF_F000; // wraps early

    private readonly ChunkPool _pool;
    private uint? _ownInitial;

    public Dialog(Func<TcpEndpointOptions, TcpEndpointOptions>? options = null, bool ipv6 = false, ulong seed = 1)
    {
        Random = new SplitMix64(seed);
        TcpEndpointOptions given = new() { ReceiveBufferBytes = 65535, SynCookies = SynCookieMode.Never };
        Options = options?.Invoke(given) ?? given;
        byte[] key = [.. Enumerable.Range(0, 16).Select(i => (byte)(i + (int)seed))];
        Endpoint = new TcpEndpoint(Options, key, Random, this);
        _pool = new ChunkPool(ChunkPoolKind.Host, new byte[4096 * 2048], chunkBytes: 2048);
        Local = IpAddress.TryParse(ipv6 ? "fd00::1" : "10.0.0.1", out IpAddress local) ? local : default;
        Remote = IpAddress.TryParse(ipv6 ? "fd00::2" : "10.0.0.2", out IpAddress remote) ? remote : default;
    }

    public SplitMix64 Random { get; }

    public TcpEndpointOptions Options { get; }

    public TcpEndpoint Endpoint { get; }

    public TcpStats Stats => Endpoint.Stats;

    public IpAddress Local { get; }

    public IpAddress Remote { get; }

    public TcpFlow Flow => new(Local, OwnPort, Remote, PeerPort);

    public TimeSpan Now { get; private set; }

    public TcpListener? Listener { get; private set; }

    public long RoomBytes { get; set; } = 1 << 20;

    public int FreeChunks => _pool.FreeChunks;

    public int ChunkCount => _pool.ChunkCount;

    /// <summary>The connection under test.</summary>
    public TcpConnection Connection => Endpoint.Find(Flow) ?? throw new InvalidOperationException("there is none");

    public bool HasConnection => Endpoint.Find(Flow) is not null;

    public uint OwnInitial => _ownInitial ?? throw new InvalidOperationException("nothing was sent yet");

    /// <summary>The byte at a position of the peer's stream.</summary>
    public static byte ByteAt(long position) => (byte)((position * 31) ^ (position >> 8));

    public static byte[] Bytes(long position, int length) =>
        [.. Enumerable.Range(0, length).Select(i => ByteAt(position + i))];

    public Dialog Listen(int backlog = 16)
    {
        Assert.Equal(Errno.Success, Endpoint.Listen(null, OwnPort, backlog, out TcpListener? listener));
        Listener = listener;
        return this;
    }

    /// <summary>A handshake that the peer began; the connection is accepted.</summary>
    public TcpConnection Establish(string options = "mss 1000", int window = 65535)
    {
        if (Listener is null)
        {
            Listen();
        }

        Send($"S 0:0(0) win 65535 <{options}>");
        Expect("S. 0:0(0) ack 1");
        Send($". 1:1(0) ack 1 win {window}" + (options.Contains("TS val", StringComparison.Ordinal)
            ? $" <TS val 1 ecr 0>"
            : ""));
        ExpectNothing();
        Assert.True(Listener!.TryAccept(out TcpConnection? connection));
        Assert.Equal(TcpState.Established, connection.State);
        return connection;
    }

    /// <summary>The peer sends.</summary>
    public void Send(string text, int segmentBytes = 0, byte? fill = null, TcpFlow? flow = null)
    {
        Match match = SegmentText().Match(text);
        Assert.True(match.Success, $"not a segment: {text}");
        long first = Number(match, "first");
        int length = (int)Number(match, "length");
        byte[] payload = Bytes(first, length);
        if (fill is { } value)
        {
            payload.AsSpan().Fill(value);
        }

        List<PayloadFragment> fragments = Place(payload);
        TcpSegment segment = new()
        {
            Sequence = PeerInitial + (uint)first,
            Acknowledgement = match.Groups["ack"].Success ? (_ownInitial ?? 0) + (uint)Number(match, "ack") : 0,
            Flags = ParseFlags(match.Groups["flags"].Value),
            Window = match.Groups["win"].Success ? (ushort)Number(match, "win") : ushort.MaxValue,
            Options = ParseOptions(match.Groups["options"].Value, match.Groups["flags"].Value.Contains('S')),
            Payload = System.Runtime.InteropServices.CollectionsMarshal.AsSpan(fragments),
            PayloadBytes = length,
            SegmentBytes = segmentBytes,
        };
        Endpoint.HandleSegment(Now, flow ?? Flow, segment);
        fragments.ForEach(f => f.Release());
    }

    /// <summary>The peer acknowledges everything; no text is made of it.</summary>
    public void AcknowledgeAll() => Endpoint.HandleSegment(Now, Flow, new TcpSegment
    {
        Sequence = PeerInitial + 1,
        Acknowledgement = OwnInitial + 1 + (uint)Connection.QueuedBytes,
        Flags = TcpFlags.Ack,
        Window = ushort.MaxValue,
    });

    /// <summary>What the endpoint sends next, as text; null for nothing.</summary>
    public string? Take() => TryTake(out TcpTransmit transmit) ? Describe(transmit) : null;

    public bool TryTake(out TcpTransmit transmit)
    {
        if (!Endpoint.PollTransmit(Now, out transmit))
        {
            return false;
        }

        if ((transmit.Flags & TcpFlags.Syn) != 0)
        {
            _ownInitial = transmit.Sequence;
        }

        return true;
    }

    public List<string> TakeAll()
    {
        List<string> all = [];
        while (Take() is { } text)
        {
            all.Add(text);
            Assert.True(all.Count < 10_000, "it never stops sending");
        }

        return all;
    }

    /// <summary>The next segment has what the text says.</summary>
    public void Expect(string expected)
    {
        string? actual = Take();
        Assert.True(actual is not null, $"nothing was sent instead of {expected}");
        AssertMatches(expected, actual);
    }

    public void ExpectNothing() => Assert.Null(Take());

    /// <summary>Time passes, timers run at their deadlines; what they cause stays to be taken.</summary>
    public void Wait(TimeSpan duration)
    {
        TimeSpan end = Now + duration;
        for (int i = 0; Endpoint.NextDeadline is { } deadline && deadline <= end; i++)
        {
            Assert.True(i < 100_000, "the timers do not come to rest");
            Now = deadline > Now ? deadline : Now;
            Endpoint.HandleTimeout(Now);
            if (Endpoint.NextDeadline is { } next && next <= Now)
            {
                break; // what it wants must be sent first
            }
        }

        Now = end;
        Endpoint.HandleTimeout(Now);
    }

    /// <summary>The clock jumps, as after a suspend: nothing ran meanwhile.</summary>
    public void Jump(TimeSpan duration)
    {
        Now += duration;
        Endpoint.HandleTimeout(Now);
    }

    public void Wait(double milliseconds) => Wait(TimeSpan.FromMilliseconds(milliseconds));

    /// <summary>Time passes until the endpoint sends something; returns when, and what.</summary>
    public (TimeSpan At, string Text) WaitForSegment(TimeSpan atMost)
    {
        TimeSpan end = Now + atMost;
        for (int i = 0; i < 10_000; i++)
        {
            if (Take() is { } text)
            {
                return (Now, text);
            }

            Assert.True(Endpoint.NextDeadline is { } d && d <= end, $"nothing was sent until {end}");
            Now = Endpoint.NextDeadline!.Value > Now ? Endpoint.NextDeadline.Value : Now;
            Endpoint.HandleTimeout(Now);
        }

        throw new InvalidOperationException("the timers do not come to rest");
    }

    /// <summary>Everything that can be read, as bytes.</summary>
    public byte[] Read(int atMost = 1 << 24)
    {
        TcpConnection connection = Connection;
        using MemoryStream read = new();
        byte[] buffer = new byte[4096];
        while (read.Length < atMost)
        {
            int length = (int)Math.Min(buffer.Length, atMost - read.Length);
            Errno errno = connection.Received.Receive(
                ReceiveFlags.None, length, buffer, [], out ReceiveResult result);
            if (errno != Errno.Success)
            {
                break;
            }

            read.Write(buffer.AsSpan(0, result.Bytes));
        }

        connection.HandleRead();
        return read.ToArray();
    }

    /// <summary>Reads, and compares with the peer's stream from a position on.</summary>
    public void ExpectRead(long position, int length) => Assert.Equal(Bytes(position, length), Read());

    public static byte[] PayloadOf(in TcpTransmit transmit)
    {
        byte[] payload = new byte[transmit.PayloadBytes];
        for (int at = 0; at < payload.Length;)
        {
            SendSlice slice = transmit.GetPayload(at);
            Assert.Null(slice.Source);
            slice.Bytes.CopyTo(payload.AsSpan(at));
            at += slice.LengthBytes;
        }

        return payload;
    }

    public TcpEvents Events()
    {
        TcpEvents all = TcpEvents.None;
        while (Endpoint.PollConnection(out _, out TcpEvents events))
        {
            all |= events;
        }

        return all;
    }

    public long GetReceiveRoomBytes(int queue) => RoomBytes;

    public long GetReceiveCapacityBytes(int queue) => 1L << 40; // what there is for others too

    public object GetReceiveMemory(int queue) => this;

    public string Describe(in TcpTransmit t)
    {
        string flags = string.Concat(
            (t.Flags & TcpFlags.Syn) != 0 ? "S" : "",
            (t.Flags & TcpFlags.Fin) != 0 ? "F" : "",
            (t.Flags & TcpFlags.Rst) != 0 ? "R" : "",
            (t.Flags & TcpFlags.Psh) != 0 ? "P" : "",
            (t.Flags & TcpFlags.Ack) != 0 ? "." : "");
        long first = (uint)(t.Sequence - (_ownInitial ?? 0));
        string text = string.Create(
            CultureInfo.InvariantCulture, $"{flags} {first}:{first + t.PayloadBytes}({t.PayloadBytes})");
        if ((t.Flags & TcpFlags.Ack) != 0)
        {
            text += string.Create(CultureInfo.InvariantCulture, $" ack {t.Acknowledgement - PeerInitial}");
        }

        text += string.Create(CultureInfo.InvariantCulture, $" win {t.Window}");
        string options = Describe(t.Options, t.Flow);
        return options.Length == 0 ? text : $"{text} <{options}>";
    }

    private static void AssertMatches(string expected, string actual)
    {
        int angle = expected.IndexOf('<', StringComparison.Ordinal);
        string head = angle < 0 ? expected : expected[..angle].TrimEnd();
        bool matches = $"{actual} ".StartsWith($"{head} ", StringComparison.Ordinal)
            && (angle < 0 || actual.EndsWith(expected[angle..], StringComparison.Ordinal));
        Assert.True(matches, $"expected {expected}\n but was {actual}");
    }

    private static long Number(Match match, string group) =>
        long.Parse(match.Groups[group].Value, CultureInfo.InvariantCulture);

    private static TcpFlags ParseFlags(string text)
    {
        TcpFlags flags = TcpFlags.None;
        foreach (char c in text)
        {
            flags |= c switch
            {
                'S' => TcpFlags.Syn,
                'F' => TcpFlags.Fin,
                'R' => TcpFlags.Rst,
                'P' => TcpFlags.Psh,
                '.' => TcpFlags.Ack,
                'U' => TcpFlags.Urg,
                _ => TcpFlags.None,
            };
        }

        return flags;
    }

    private SegmentOptions ParseOptions(string text, bool isSyn)
    {
        SegmentOptions options = default;
        const StringSplitOptions Tidy = StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries;
        foreach (string option in text.Split(',', Tidy))
        {
            string[] words = option.Split(' ');
            switch (words[0])
            {
                case "mss":
                    options.MaximumSegment = ushort.Parse(words[1], CultureInfo.InvariantCulture);
                    break;
                case "sackOK":
                    options.IsSackPermitted = isSyn;
                    break;
                case "wscale":
                    (options.HasWindowScale, options.WindowScale) =
                        (true, byte.Parse(words[1], CultureInfo.InvariantCulture));
                    break;
                case "TS":
                    options.HasTimestamps = true;
                    options.TimestampValue = uint.Parse(words[2], CultureInfo.InvariantCulture);
                    uint echo = uint.Parse(words[4], CultureInfo.InvariantCulture);
                    options.TimestampEcho = echo + Endpoint.TimestampOf(Flow, TimeSpan.Zero);
                    break;
                case "sack":
                    foreach (string block in words[1..])
                    {
                        string[] ends = block.Split(':');
                        options.TryAddSackBlock(new SackBlock(
                            OwnInitial + (uint)long.Parse(ends[0], CultureInfo.InvariantCulture),
                            OwnInitial + (uint)long.Parse(ends[1], CultureInfo.InvariantCulture)));
                    }

                    break;
                default:
                    Assert.Equal("nop", words[0]);
                    break;
            }
        }

        return options;
    }

    private string Describe(in SegmentOptions options, in TcpFlow flow)
    {
        List<string> words = [];
        if (options.MaximumSegment > 0)
        {
            words.Add($"mss {options.MaximumSegment}");
        }

        if (options.IsSackPermitted)
        {
            words.Add("sackOK");
        }

        if (options.HasTimestamps)
        {
            uint value = options.TimestampValue - Endpoint.TimestampOf(flow, TimeSpan.Zero);
            words.Add($"TS val {value} ecr {options.TimestampEcho}");
        }

        if (options.HasWindowScale)
        {
            words.Add($"wscale {options.WindowScale}");
        }

        if (options.SackCount > 0)
        {
            string blocks = "";
            for (int i = 0; i < options.SackCount; i++)
            {
                SackBlock block = options.GetSackBlock(i);
                blocks += $" {block.Left - PeerInitial}:{block.Right - PeerInitial}";
            }

            words.Add($"sack{blocks}");
        }

        return string.Join(',', words);
    }

    private List<PayloadFragment> Place(byte[] payload)
    {
        List<PayloadFragment> fragments = [];
        for (int at = 0; at < payload.Length;)
        {
            Assert.True(_pool.TryAllocate(out int chunk), "the test has no more chunks");
            int length = Math.Min(_pool.ChunkBytes, payload.Length - at);
            payload.AsSpan(at, length).CopyTo(_pool.Bytes(chunk, 0, length));
            fragments.Add(new PayloadFragment(_pool, chunk, 0, length));
            at += length;
        }

        return fragments;
    }

    [GeneratedRegex(
        @"^(?<flags>[SFRPU.\-]+) (?<first>\d+):\d+\((?<length>\d+)\)(?: ack (?<ack>\d+))?(?: win (?<win>\d+))?"
        + @"(?: <(?<options>[^>]*)>)?$")]
    private static partial Regex SegmentText();
}
