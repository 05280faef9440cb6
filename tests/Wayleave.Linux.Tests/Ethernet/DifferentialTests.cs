using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Wayleave.Linux.Tests.Linux;
using Wayleave.Simulation;
using Xunit;
using TcpListener = Wayleave.Devices.Ethernet.Tcp.TcpListener;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// The same segments to the kernel's TCP and to ours: what each answers at once, and whether the connection is there
/// afterwards.
/// </summary>
public sealed class DifferentialTests
{
    private const ushort Port = 7001;
    private const ushort ClosedPort = 7002;
    private const uint Initial = 1000;
    private const int Window = 1000;

    private static readonly (string What, Func<Peer, byte[]> Segment)[] s_segments =
    [
        ("SYN in the window", p => p.Make(TcpFlags.Syn, p.Next + 10, 0)),
        ("SYN, ACK", p => p.Make(TcpFlags.Syn | TcpFlags.Ack, p.Next, p.Theirs)),
        ("the first SYN again", p => p.Make(TcpFlags.Syn, Initial, 0)),
        ("RST exact", p => p.Make(TcpFlags.Rst, p.Next, 0)),
        ("RST, ACK exact", p => p.Make(TcpFlags.Rst | TcpFlags.Ack, p.Next, p.Theirs)),
        ("RST in the window", p => p.Make(TcpFlags.Rst, p.Next + 100, 0)),
        ("RST beyond the window", p => p.Make(TcpFlags.Rst, p.Next + (1 << 30), 0)),
        ("RST below the window", p => p.Make(TcpFlags.Rst, p.Next - 100_000, 0)),
        ("ACK of what was not sent", p => p.Make(TcpFlags.Ack, p.Next, p.Theirs + 100_000, 10)),
        ("ACK of what was long ago", p => p.Make(TcpFlags.Ack, p.Next, p.Theirs - (1 << 30), 10)),
        ("nothing set", p => p.Make(TcpFlags.None, p.Next, 0, 10)),
        ("data without ACK", p => p.Make(TcpFlags.Psh, p.Next, 0, 10)),
        ("data too early", p => p.Make(TcpFlags.Ack, p.Next + 100, p.Theirs, 10)),
        ("data that came before", p => p.Make(TcpFlags.Ack, Initial, p.Theirs, 1)),
        ("data beyond the window", p => p.Make(TcpFlags.Ack, p.Next + (1 << 30), p.Theirs, 10)),
        ("FIN too early", p => p.Make(TcpFlags.Fin | TcpFlags.Ack, p.Next + 100, p.Theirs)),
        ("FIN beyond the window", p => p.Make(TcpFlags.Fin | TcpFlags.Ack, p.Next + (1 << 30), p.Theirs)),
        ("an old ACK alone", p => p.Make(TcpFlags.Ack, p.Next, p.Theirs)),
        ("a keep-alive", p => p.Make(TcpFlags.Ack, p.Next - 1, p.Theirs)),
        ("every flag", p => p.Make((TcpFlags)0x3F, p.Next, p.Theirs, 10)),
    ];

    // Where Linux checks less than RFC 5961 and RFC 9293 do, because it has only a request, or what is left of a
    // connection (struct request_sock, tcp_timewait_sock): there anybody who guesses a window ends it.
    private static readonly Dictionary<string, string> s_known = new(StringComparer.Ordinal)
    {
        ["SynReceived, SYN in the window"] = "we repeat our answer, Linux resets and forgets",
        ["SynReceived, SYN, ACK"] = "the same",
        ["Orphan, SYN in the window"] = "we challenge, Linux resets and forgets",
        ["Orphan, SYN, ACK"] = "the same",
        ["Orphan, RST in the window"] = "we challenge, Linux forgets",
        ["Orphan, RST beyond the window"] = "we say nothing, Linux answers a reset",
        ["Orphan, RST below the window"] = "the same",
        ["Orphan, ACK of what was not sent"] = "we challenge, Linux resets without a look at it",
        ["Orphan, ACK of what was long ago"] = "the same",
        ["TimeWait, RST in the window"] = "we challenge, Linux says nothing",
        ["TimeWait, nothing set"] = "we drop what has no ACK, Linux answers",
        ["TimeWait, data without ACK"] = "the same",
    };

    [Fact]
    public void F_12_differs_only_where_Linux_checks_less_than_the_specification() =>
        Compare(TcpDefences.All, different =>
        {
            string[] others =
                [.. different.Where(d => !s_known.ContainsKey(d[..d.IndexOf(": ", StringComparison.Ordinal)]))];
            Assert.True(others.Length == 0, string.Join("\n", others));
            Assert.Equal(s_known.Count, different.Count);
        });

    [Fact]
    public void An_endpoint_that_checks_less_than_the_kernel_is_noticed() => Compare(
        TcpDefences.All with { ChecksResets = false },
        different => Assert.Contains(
            different, d => d.StartsWith("Established, RST in the window", StringComparison.Ordinal)));

    private static void Compare(TcpDefences defences, Action<List<string>> judge) =>
        NetworkNamespace.Run(["link set lo up"], () => CompareHere(defences, judge));

    private static void CompareHere(TcpDefences defences, Action<List<string>> judge)
    {
        Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);
        using TapDevice tap = TapDevice.Open("wl%d");
        string[] setUp =
        [
            $"link set {tap.Name} address 02:00:00:00:00:22",
            $"addr add 10.0.0.2/24 dev {tap.Name}",
            $"link set {tap.Name} up",
            $"neigh add 10.0.0.1 lladdr {Peer.Mac} dev {tap.Name}",
        ];
        Assert.All(setUp, command => Assert.Null(NetworkNamespace.Ip(command)));
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Parse("10.0.0.2"), Port));
        listener.Listen(100);
        KernelStack kernel = new(tap, listener);
        OurStack ours = new(defences);
        List<string> different = [];
        ushort port = 20_000;
        foreach (Stage stage in Enum.GetValues<Stage>())
        {
            foreach ((string what, Func<Peer, byte[]> segment) in s_segments)
            {
                port++;
                string theirs = Try(new Peer(kernel, port), stage, segment);
                string our = Try(new Peer(ours, port), stage, segment);
                if (theirs != our)
                {
                    different.Add($"{stage}, {what}: the kernel {theirs}, we {our}");
                }
            }
        }

        judge(different);
    }

    // Comes to the stage, sends the segment, and asks by data that comes too early whether somebody is there.
    private static string Try(Peer peer, Stage stage, Func<Peer, byte[]> segment)
    {
        peer.ComeTo(stage);
        string answer = peer.Ask(segment(peer));
        string after = stage is Stage.Closed or Stage.Listen
            ? ""
            : ", then " + peer.Ask(peer.Make(TcpFlags.Ack, peer.Next + 200, peer.Theirs, 10));
        peer.Leave();
        return answer + after;
    }

    // In the order of RFC 9293 3.3.2. Of Orphan the user has closed, so that nobody would read: FIN-WAIT-2 otherwise.
    private enum Stage
    {
        Closed,
        Listen,
        SynSent,
        SynReceived,
        Established,
        FinWait1,
        FinWait2,
        Orphan,
        Closing,
        TimeWait,
        CloseWait,
        LastAck,
    }

    /// <summary>The user of a connection.</summary>
    private interface IUser : IDisposable
    {
        void Shutdown();
    }

    private interface IStack
    {
        MacAddress Mac { get; }

        /// <summary>Gives it a frame; returns every TCP segment that it answers at once.</summary>
        List<byte[]> Exchange(byte[] frame);

        /// <summary>Every TCP segment that it sends by itself at once.</summary>
        List<byte[]> Collect();

        /// <summary>The connection from that port; others that wait are over, and closed.</summary>
        IUser Accept(ushort port);

        IUser Connect(ushort port);
    }

    /// <summary>One connection of 10.0.0.1 to 10.0.0.2, made by hand.</summary>
    private sealed class Peer(IStack stack, ushort port)
    {
        public static readonly MacAddress Mac = new(0x02_57_4C_00_00_01);

        private static readonly IpAddress s_us = IpAddress.FromIPv4(0x0A000001);
        private static readonly IpAddress s_them = IpAddress.FromIPv4(0x0A000002);

        private IUser? _user;
        private ushort _to = Port;
        private Stage _stage;
        private bool _hasAsked;

        /// <summary>Of our next byte.</summary>
        public uint Next { get; private set; } = Initial;

        /// <summary>Of theirs.</summary>
        public uint Theirs { get; private set; } = 77_777;

        public void ComeTo(Stage stage)
        {
            _stage = stage;
            _to = stage == Stage.Closed ? ClosedPort : Port;
            if (stage <= Stage.Listen)
            {
                return;
            }

            if (stage == Stage.SynSent)
            {
                _user = stack.Connect(port);
                TcpHeader syn = Parse(Assert.Single(Mine(stack.Collect()))).Tcp;
                Assert.Equal(TcpFlags.Syn, syn.Flags);
                (_to, Theirs) = (syn.SourcePort, syn.Sequence + 1);
                return;
            }

            FrameLayout answer = Parse(Assert.Single(Mine(stack.Exchange(Make(TcpFlags.Syn, Initial, 0)))));
            Assert.Equal(TcpFlags.Syn | TcpFlags.Ack, answer.Tcp.Flags);
            Next = Initial + 1;
            Theirs = answer.Tcp.Sequence + 1;
            if (stage == Stage.SynReceived)
            {
                return;
            }

            Assert.Empty(Mine(stack.Exchange(Make(TcpFlags.Ack, Next, Theirs))));
            _user = stack.Accept(port);
            if (stage is Stage.CloseWait or Stage.LastAck)
            {
                // Data beyond the end makes either acknowledge the end now and not a little later.
                SendEnd();
                stack.Exchange(Make(TcpFlags.Ack, Next + 100, Theirs, 10));
            }

            if (stage is not (Stage.Established or Stage.CloseWait))
            {
                Close(stage);
            }
        }

        // Their end is sent, and acknowledged where the stage has it so.
        private void Close(Stage stage)
        {
            if (stage == Stage.Orphan)
            {
                _user!.Dispose();
            }
            else
            {
                _user!.Shutdown();
            }

            byte[][] sent = [.. Mine(stack.Collect())];
            Assert.True(sent.Length == 1, $"{stack.GetType().Name} sent {sent.Length} segments to reach {stage}");
            TcpHeader end = Parse(sent[0]).Tcp;
            Assert.Equal((TcpFlags.Fin | TcpFlags.Ack, Theirs), (end.Flags, end.Sequence));
            Theirs++;
            if (stage == Stage.Closing)
            {
                stack.Exchange(Make(TcpFlags.Fin | TcpFlags.Ack, Next++, Theirs - 1));
                stack.Exchange(Make(TcpFlags.Ack, Next + 100, Theirs - 1, 10)); // as above
            }
            else if (stage is Stage.FinWait2 or Stage.Orphan or Stage.TimeWait)
            {
                stack.Exchange(Make(TcpFlags.Ack, Next, Theirs));
                if (stage == Stage.TimeWait)
                {
                    SendEnd();
                }
            }
        }

        private void SendEnd() => stack.Exchange(Make(TcpFlags.Fin | TcpFlags.Ack, Next++, Theirs));

        // Of this connection, and nothing that is only said again because time has passed.
        private IEnumerable<byte[]> Mine(List<byte[]> frames) => frames.Where(f =>
        {
            TcpHeader tcp = Parse(f).Tcp;
            return tcp.DestinationPort == port
                && !(_hasAsked && _stage == Stage.SynSent && tcp.Flags == TcpFlags.Syn)
                && !(_hasAsked && (tcp.Flags & TcpFlags.Fin) != 0);
        });

        /// <summary>The answers in words: flags, and where they stand relative to both streams.</summary>
        public string Ask(byte[] frame)
        {
            List<string> answers = [];
            _hasAsked = true;
            foreach (byte[] bytes in Mine(stack.Exchange(frame)))
            {
                TcpHeader tcp = Parse(bytes).Tcp;
                bool hasAck = (tcp.Flags & TcpFlags.Ack) != 0;
                bool isReset = (tcp.Flags & TcpFlags.Rst) != 0;
                string acknowledges = !hasAck || isReset ? ""
                    : tcp.Acknowledgement == Next ? " all"
                    : $" {(int)(tcp.Acknowledgement - Next)}";
                string at = isReset ? $" at {(int)(tcp.Sequence - Theirs)}" : "";
                answers.Add($"{(isReset ? TcpFlags.Rst : tcp.Flags & ~TcpFlags.Psh)}{acknowledges}{at}");
            }

            return answers.Count == 0 ? "nothing" : string.Join(" + ", answers);
        }

        /// <summary>Resets what is left, so that nobody repeats anything.</summary>
        public void Leave()
        {
            stack.Exchange(Make(TcpFlags.Rst, Next, 0));
            _user?.Dispose();
            stack.Collect();
        }

        public byte[] Make(TcpFlags flags, uint sequence, uint acknowledgement, int payloadBytes = 0)
        {
            byte[] options = (flags & TcpFlags.Syn) != 0 ? [2, 4, 5, 180] : [];
            int tcpBytes = TcpHeader.Size + options.Length + payloadBytes;
            byte[] frame = new byte[EthernetHeader.Size + Ipv4Header.Size + tcpBytes];
            new EthernetHeader(stack.Mac, Mac, EtherType.IPv4).WriteTo(frame);
            new Ipv4Header
            {
                TotalBytes = Ipv4Header.Size + tcpBytes,
                TimeToLive = 64,
                Protocol = IpProtocol.Tcp,
                Source = s_us,
                Destination = s_them,
            }.WriteTo(frame.AsSpan(EthernetHeader.Size));
            Span<byte> segment = frame.AsSpan(EthernetHeader.Size + Ipv4Header.Size);
            new TcpHeader
            {
                SourcePort = port,
                DestinationPort = _to,
                Sequence = sequence,
                Acknowledgement = acknowledgement,
                HeaderBytes = TcpHeader.Size + options.Length,
                Flags = flags,
                Window = Window,
            }.WriteTo(segment);
            options.CopyTo(segment[TcpHeader.Size..]);
            uint sum = InternetChecksum.PseudoHeader(s_us, s_them, IpProtocol.Tcp, tcpBytes);
            ushort check = InternetChecksum.Finish(InternetChecksum.Add(segment, sum));
            (segment[TcpHeader.ChecksumOffset], segment[TcpHeader.ChecksumOffset + 1]) =
                ((byte)(check >> 8), (byte)check);
            return frame;
        }

        /// <summary>Asks who has 10.0.0.2, and tells who has 10.0.0.1.</summary>
        public static byte[] WhoHas()
        {
            byte[] request = new byte[42];
            MacAddress.Broadcast.WriteTo(request);
            Mac.WriteTo(request.AsSpan(6));
            byte[] rest = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
            rest.CopyTo(request, 12);
            Mac.WriteTo(request.AsSpan(22));
            byte[] addresses = [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
            addresses.CopyTo(request, 28);
            return request;
        }

        private static FrameLayout Parse(byte[] frame)
        {
            VirtioNetHeader link = new() { Flags = VirtioNetFlags.DataValid };
            Assert.Equal(FrameDrop.None, FrameParser.Parse(frame, link, out FrameLayout layout));
            return layout;
        }
    }

    /// <summary>
    /// The kernel. It works through what a TAP is given one after the other, so that its reply to an ARP request comes
    /// behind all that it had to say before.
    /// </summary>
    private sealed class KernelStack(TapDevice tap, Socket listener) : IStack
    {
        private readonly byte[] _buffer = new byte[TapDevice.FrameBytesMax];

        public MacAddress Mac { get; } = new(0x02_00_00_00_00_22);

        public IUser Accept(ushort port)
        {
            while (true)
            {
                Socket accepted = listener.Accept();
                if (accepted.RemoteEndPoint is IPEndPoint remote && remote.Port == port)
                {
                    return new SocketUser(accepted);
                }

                accepted.Dispose();
            }
        }

        public IUser Connect(ushort port)
        {
            Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { Blocking = false };
            SocketException begun = Assert.Throws<SocketException>(
                () => socket.Connect(new IPEndPoint(IPAddress.Parse("10.0.0.1"), port)));
            Assert.Contains(begun.SocketErrorCode, (SocketError[])[SocketError.WouldBlock, SocketError.InProgress]);
            return new SocketUser(socket);
        }

        public List<byte[]> Exchange(byte[] frame)
        {
            Write(frame);
            return Collect();
        }

        public List<byte[]> Collect()
        {
            Write(Peer.WhoHas());
            List<byte[]> answers = [];
            while (true)
            {
                if (tap.TryRead(_buffer, out int length) != Errno.Success)
                {
                    Assert.True(tap.Wait(Patience.Max), "the kernel says nothing");
                    continue;
                }

                byte[] bytes = _buffer[VirtioNetHeader.Size..length];
                ushort type = (ushort)((bytes[12] << 8) | bytes[13]);
                if (type == (ushort)EtherType.Arp && bytes[21] == 2)
                {
                    return answers;
                }

                if (type == (ushort)EtherType.IPv4 && bytes[23] == (byte)IpProtocol.Tcp)
                {
                    answers.Add(bytes);
                }
            }
        }

        private sealed class SocketUser(Socket socket) : IUser
        {
            public void Shutdown() => socket.Shutdown(SocketShutdown.Send);

            public void Dispose() => socket.Dispose();
        }

        private void Write(byte[] frame)
        {
            byte[] whole = new byte[VirtioNetHeader.Size + frame.Length];
            frame.CopyTo(whole, VirtioNetHeader.Size);
            Assert.Equal(Errno.Success, tap.TryWrite(whole));
        }
    }

    /// <summary>Ours, behind its NIC, on a clock that stands still: what it says later it does not say here.</summary>
    private sealed class OurStack : IStack
    {
        private readonly NicPort _port;
        private readonly IpHost _host;
        private readonly TcpListener _listener;
        private readonly byte[] _frame = new byte[1 << 17];

        public OurStack(TcpDefences defences)
        {
            HostContext host = new(TimeProvider.System);
            PciTopology topology = new();
            topology.Add(new HostBridge(0, 0));
            PciFunction function = new("0000:05:00.0", "nic0");
            _port = new NicDevice(host, new PciFabric(topology), function, new NicOptions { Address = Mac }).Port;
            Assert.True(_port.TryEnter());
            Assert.True(InterfaceAddress.TryParse("10.0.0.2/24", out InterfaceAddress address));
            IpHostOptions options = new()
            {
                HardwareAddress = Mac,
                Addresses = [address],
                Tcp = new TcpEndpointOptions { Defences = defences },
            };
            _host = new IpHost(options, new byte[16], Choices.Seeded(1), _port);
            Assert.Equal(Errno.Success, _host.Tcp.Listen(null, Port, 100, out TcpListener? listener));
            _listener = listener!;
            Exchange(Peer.WhoHas()); // so that it need not ask
        }

        public MacAddress Mac { get; } = new(0x02_00_00_00_00_22);

        public IUser Accept(ushort port)
        {
            while (true)
            {
                Assert.True(_listener.TryAccept(out TcpConnection? connection));
                if (connection.Flow.RemotePort == port)
                {
                    return new ConnectionUser(connection);
                }

                connection.Close();
            }
        }

        public IUser Connect(ushort port)
        {
            Assert.Equal(Errno.Success, _host.Connect(
                TimeSpan.Zero, IpAddress.FromIPv4(0x0A000001), port, out TcpConnection? connection));
            return new ConnectionUser(connection!);
        }

        public List<byte[]> Exchange(byte[] frame)
        {
            _port.HandleFrame(frame, default, TimeSpan.Zero);
            return Collect();
        }

        public List<byte[]> Collect()
        {
            _port.Deliver(_host, int.MaxValue, TimeSpan.Zero);
            List<byte[]> answers = [];
            SuperFrame next = new(_frame, _port.Dma);
            while (_port.PollTransmit(_host, TimeSpan.Zero, ref next))
            {
                if (next.Bytes[13] == 0 && next.Bytes[23] == (byte)IpProtocol.Tcp)
                {
                    answers.Add(next.Bytes.ToArray());
                }
            }

            return answers;
        }

        private sealed class ConnectionUser(TcpConnection connection) : IUser
        {
            public void Shutdown() => connection.Shutdown();

            public void Dispose() => connection.Close();
        }
    }
}
