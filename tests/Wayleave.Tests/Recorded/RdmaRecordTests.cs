using System.Text.Json;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Tests.Rdma;
using Xunit;

namespace Wayleave.Tests.Recorded;

/// <summary>
/// The dialogs that the lab had two of the kernel's rxe devices play, played by two of ours: the same packets in the
/// same order with the same PSNs, lengths, pads and syndromes, and the same completions.
/// </summary>
public sealed class RdmaRecordTests
{
    private const uint PsnA = 0xA00000;
    private const uint PsnB = 0xB00000;
    private const uint QKey = 0x11111111;
    private const int Long = 3502; // four packets of 1024, the last with a pad
    private const int At = 0x100;
    private const int Size = 1 << 17;
    private const int ReceivedAt = 65536;

    private const AccessFlags All = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead
        | AccessFlags.RemoteAtomic;

    private static readonly IReadOnlyList<JsonElement> s_records = KernelRecord.Read("rxe");

    private static readonly Dictionary<string, Action<Player>> s_dialogs = new()
    {
        ["send_only"] = p => p.SendAndReceive(64),
        ["send_zero"] = p => p.SendAndReceive(0),
        ["send_multi"] = p => p.SendAndReceive(Long),
        ["send_imm_multi"] = p => p.SendAndReceive(Long, immediate: 0xDEADBEEF),
        ["write_only"] = p => p.Write(64),
        ["write_zero"] = p => p.Write(0),
        ["write_multi"] = p => p.Write(Long),
        ["write_imm_multi"] = p => p.WriteImmediate(Long),
        ["write_psn_wrap"] = p => p.Write(Long),
        ["write_mtu256"] = p => p.Write(1001),
        ["write_mtu4096"] = p => p.Write(9000),
        ["read_only"] = p => p.Read(64),
        ["read_zero"] = p => p.Read(0),
        ["read_multi"] = p => p.Read(Long),
        ["read_psn_wrap"] = p => p.Read(Long),
        ["read_mtu4096"] = p => p.Read(9000),
        ["atomic_cas"] = p => p.CompareAndSwap(),
        ["atomic_faa"] = p => p.FetchAndAdd(),
        ["nak_bad_rkey"] = p => p.Refused(WorkRequestOpcode.RdmaWrite, At, p.Key ^ 0x5500),
        ["nak_bad_rkey_read"] = p => p.Refused(WorkRequestOpcode.RdmaRead, At, p.Key ^ 0x5500),
        ["nak_bounds"] = p => p.Refused(WorkRequestOpcode.RdmaWrite, Size - 32, p.Key),
        ["nak_qp_access"] = p => p.Refused(WorkRequestOpcode.RdmaWrite, At, p.Key),
        ["nak_recv_too_small"] = p => p.SendAndReceive(64, room: 32),
        ["uc_send"] = p => p.SendAndReceive(64),
        ["uc_write_multi"] = p =>
        {
            // Nothing tells when a WRITE without acknowledgement has landed, but a message behind it does.
            p.Write(Long);
            p.SendAndReceive(0);
        },
        ["ud_send"] = p => p.SendAndReceive(64),
        ["ud_send_imm"] = p => p.SendAndReceive(64, immediate: 0xDEADBEEF),
    };

    public static TheoryData<string> Cases => [.. s_records.Select(r => r.Text("case"))];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Two_of_our_devices_say_what_two_of_the_kernels_said(string name)
    {
        JsonElement record = s_records.Single(r => r.Text("case") == name);
        Player player = Play(record, PeerProfile.Rxe);
        Assert.Equal(Lines(record, "requests"), player.Requests);
        Assert.Equal(Lines(record, "answers"), player.Answers);
        Assert.Equal(Lines(record, "completions"), player.Completions);
    }

    [Fact]
    public void By_the_specification_only_a_receive_that_is_too_small_is_answered_otherwise() =>
        Assert.Equal(["nak_recv_too_small"], Rows().Where(r => !r.IsSame).Select(r => r.Question.Split(' ')[0]));

    [Fact]
    public void Every_dialog_is_in_the_record() =>
        Assert.Empty(s_dialogs.Keys.Except(s_records.Select(r => r.Text("case"))));

    [Fact]
    public void A_device_with_a_smaller_MTU_is_told_from_the_kernels()
    {
        JsonElement record = s_records.Single(r => r.Text("case") == "write_multi");
        Assert.NotEqual(Lines(record, "requests"), Play(record, PeerProfile.Rxe, mtu: 512).Requests);
    }

    /// <summary>Each dialog by our default profile, in a few words, beside the kernel's.</summary>
    internal static IEnumerable<HeldRow> Rows()
    {
        foreach (JsonElement record in s_records)
        {
            Player player = Play(record, PeerProfile.Default);
            string[] requests = Lines(record, "requests"), answers = Lines(record, "answers");
            string[] completions = Lines(record, "completions");
            string ours = Summary(player.Requests, player.Answers, player.Completions);
            string its = Summary(requests, answers, completions);
            bool isSame = requests.SequenceEqual(player.Requests) && answers.SequenceEqual(player.Answers)
                && completions.SequenceEqual(player.Completions);
            string question = $"{record.Text("case")} ({record.Text("qp_type")}, MTU {record.GetProperty("path_mtu")})";
            yield return new HeldRow("", question, ours, its, "vectors")
            {
                IsSame = isSame,
                Note = record.Text("case") == "nak_recv_too_small"
                    ? "on purpose, by the specification; a queue pair with the profile of rxe does as rxe"
                    : "",
            };
        }
    }

    private static string Summary(
        IReadOnlyCollection<string> requests, IReadOnlyCollection<string> answers, IEnumerable<string> completions)
    {
        string last = answers.LastOrDefault() is { } answer && answer.IndexOf("syndrome", StringComparison.Ordinal)
            is var at and >= 0 ? $" ({answer.Substring(at, "syndrome 0x00".Length)})" : "";
        IEnumerable<string> ends = completions.Select(c => string.Concat(c[..2], c.Split(' ')[2]));
        return $"{requests.Count} packets, {answers.Count} back{last}; {string.Join(", ", ends)}";
    }

    private static Player Play(JsonElement record, PeerProfile profile, int? mtu = null)
    {
        string name = record.Text("case"), plain = name.Replace("ip6_", "", StringComparison.Ordinal);
        Player player = new(
            record.Text("qp_type"), mtu ?? record.GetProperty("path_mtu").GetInt32(), isIpv6: plain != name,
            plain.EndsWith("_psn_wrap", StringComparison.Ordinal) ? 0xFFFFFE : PsnA,
            plain == "nak_qp_access" ? AccessFlags.None : All, profile);
        s_dialogs[plain](player);
        player.Collect();
        return player;
    }

    private static string[] Lines(JsonElement record, string key) =>
        [.. record.GetProperty(key).EnumerateArray().Select(l => l.GetString()!)];

    /// <summary>Two nodes with a queue pair each: A asks, B answers, and what they said is kept.</summary>
    private sealed class Player
    {
        private readonly TestLink _link;
        private readonly uint _firstPsn;
        private readonly TestMemory _memoryA;
        private readonly TestMemory _memoryB;
        private readonly MemoryRegion _regionA;
        private readonly MemoryRegion _regionB;
        private readonly QueuePair _a;
        private readonly QueuePair _b;
        private readonly AddressHandle? _handle;

        public Player(string type, int mtu, bool isIpv6, uint psn, AccessFlags access, PeerProfile profile)
        {
            _link = isIpv6 ? new TestLink(addressA: "fd77::1", addressB: "fd77::2") : new TestLink();
            _firstPsn = psn;
            _link.Filter = (from, packet) =>
            {
                (ReferenceEquals(from, _link.A) ? Requests : Answers).Add(Describe(packet.Span));
                return true;
            };
            (_memoryA, _memoryB) = (_link.A.Allocate(Size), _link.B.Allocate(Size));
            (_regionA, _regionB) = (_link.A.Register(_memoryA, All), _link.B.Register(_memoryB, All));
            QueuePairType kind = type switch
            {
                "RC" => QueuePairType.ReliableConnection,
                "UC" => QueuePairType.UnreliableConnection,
                _ => QueuePairType.UnreliableDatagram,
            };
            _a = _link.A.CreatePair(kind, TestNode.CreateCompletionQueue());
            _b = _link.B.CreatePair(kind, TestNode.CreateCompletionQueue());
            QueuePairAttributes attributes =
                new Connection().Attributes with { QKey = QKey, PathMtu = MtuOf(mtu), Profile = profile };
            Connect(_a, Ends(attributes, _link.B, _b, psn, PsnB) with { AccessFlags = All });
            Connect(_b, Ends(attributes, _link.A, _a, PsnB, psn) with { AccessFlags = access });
            _handle = kind == QueuePairType.UnreliableDatagram ? _link.A.CreateAddressHandle(_link.B.Gid) : null;
        }

        public List<string> Requests { get; } = [];

        public List<string> Answers { get; } = [];

        public List<string> Completions { get; } = [];

        /// <summary>Of B's region.</summary>
        public uint Key => _regionB.Key;

        public void SendAndReceive(int length, uint? immediate = null, int room = 8192)
        {
            _memoryA.FillPattern(0, length, 0x11);
            Assert.Equal(Errno.Success, _b.PostReceive(
                new ReceiveWorkRequest(1), new Sge(_regionB.Iova + ReceivedAt, (uint)room, _regionB.Key)));
            Post(
                immediate is null ? WorkRequestOpcode.Send : WorkRequestOpcode.SendWithImmediate, length, 0, Key, 0,
                immediate ?? 0);
            if (room >= length)
            {
                int skip = _handle is null ? 0 : 40; // the network header
                Assert.Equal(TestMemory.Pattern(length, 0x11), _memoryB.Read(ReceivedAt + skip, length));
            }
        }

        public void Write(int length)
        {
            _memoryA.FillPattern(0, length, 0x11);
            Post(WorkRequestOpcode.RdmaWrite, length, At, Key);
            Assert.Equal(TestMemory.Pattern(length, 0x11), _memoryB.Read(At, length));
        }

        public void WriteImmediate(int length)
        {
            _memoryA.FillPattern(0, length, 0x11);
            Assert.Equal(Errno.Success, _b.PostReceive(
                new ReceiveWorkRequest(1), new Sge(_regionB.Iova + ReceivedAt, 8192, _regionB.Key)));
            Post(WorkRequestOpcode.RdmaWriteWithImmediate, length, At, Key, immediate: 0xCAFEF00D);
            Assert.Equal(TestMemory.Pattern(length, 0x11), _memoryB.Read(At, length));
        }

        public void Read(int length)
        {
            _memoryB.FillPattern(At, length, 0x55);
            Post(WorkRequestOpcode.RdmaRead, length, At, Key, into: 4096);
            Assert.Equal(TestMemory.Pattern(length, 0x55), _memoryA.Read(4096, length));
        }

        public void CompareAndSwap()
        {
            const ulong before = 0x0102030405060708, after = 0x1112131415161718;
            _memoryB.Fill(64, BitConverter.GetBytes(before));
            Post(WorkRequestOpcode.AtomicCompareSwap, 8, 64, Key, into: 0, compare: before, swap: after);
            Collect();
            Post(WorkRequestOpcode.AtomicCompareSwap, 8, 64, Key, into: 8, compare: before, swap: 0);
            Assert.Equal(BitConverter.GetBytes(before), _memoryA.Read(0, 8));
            Assert.Equal(BitConverter.GetBytes(after), _memoryA.Read(8, 8));
            Assert.Equal(BitConverter.GetBytes(after), _memoryB.Read(64, 8));
        }

        public void FetchAndAdd()
        {
            _memoryB.Fill(64, BitConverter.GetBytes(5UL));
            Post(WorkRequestOpcode.AtomicFetchAdd, 8, 64, Key, compare: 16);
            Assert.Equal(BitConverter.GetBytes(5UL), _memoryA.Read(0, 8));
            Assert.Equal(BitConverter.GetBytes(21UL), _memoryB.Read(64, 8));
        }

        public void Refused(WorkRequestOpcode opcode, int at, uint key)
        {
            Post(opcode, 64, at, key);
            Assert.All(_memoryB.Read(0, Size), b => Assert.Equal(0, b));
        }

        /// <summary>Takes what completed: of A first, as the lab waited for them.</summary>
        public void Collect()
        {
            foreach ((char side, QueuePair pair) in ((char, QueuePair)[])[('A', _a), ('B', _b)])
            {
                foreach (WorkCompletion c in TestNode.Poll(pair.SendCompletionQueue))
                {
                    string rest = c.Status == WorkCompletionStatus.Success
                        ? $" opcode {(int)c.Opcode} length {c.ByteLength}" : "";
                    Completions.Add($"{side} status {(int)c.Status}{rest}");
                }
            }
        }

        private static QueuePairAttributes Ends(
            QueuePairAttributes attributes, TestNode peer, QueuePair pair, uint own, uint its) => attributes with
            {
                AddressVector = new AddressVector(peer.Gid),
                DestQpNumber = pair.QpNumber,
                SqPsn = own,
                RqPsn = its,
            };

        private static PathMtu MtuOf(int bytes) => bytes switch
        {
            256 => PathMtu.Mtu256,
            512 => PathMtu.Mtu512,
            4096 => PathMtu.Mtu4096,
            _ => PathMtu.Mtu1024,
        };

        // The words of the lab's record (RxeDialogs.Packets).
        private string Describe(ReadOnlySpan<byte> bytes)
        {
            Assert.Equal(DropReason.None, PacketView.TryParse(bytes, out PacketView packet));
            long distance = ((packet.Psn - _firstPsn) & Psn.Mask) is uint d && d < 0x800000 ? d : d - 0x1000000L;
            string text = $"{packet.Opcode} psn {distance:+0;-0;+0} length {packet.Payload.Length}";
            text += packet.PadCount > 0 ? $" pad {packet.PadCount}" : "";
            text += packet.AckRequest ? " ack-request" : "";
            return packet.Traits.Has(ExtensionHeaders.Aeth)
                ? text + $" syndrome 0x{packet.Aeth.Syndrome:x2} msn {packet.Aeth.Msn}" : text;
        }

        private static void Connect(QueuePair pair, QueuePairAttributes attributes) =>
            new Connection { Attributes = attributes }.ApplyRequired(pair);

        private void Post(
            WorkRequestOpcode opcode, int length, int at, uint key, int into = 0, uint immediate = 0,
            ulong compare = 0, ulong swap = 0)
        {
            SendWorkRequest request = new()
            {
                WrId = 1,
                Opcode = opcode,
                Flags = SendFlags.Signaled,
                Immediate = immediate,
                RemoteAddress = _regionB.Iova + (ulong)at,
                RKey = key,
                CompareAdd = compare,
                Swap = swap,
                AddressHandle = _handle,
                RemoteQpNumber = _b.QpNumber,
                RemoteQKey = QKey,
            };
            Assert.Equal(
                Errno.Success, _a.PostSend(request, new Sge(_regionA.Iova + (ulong)into, (uint)length, _regionA.Key)));
            _link.Run();
        }
    }
}
