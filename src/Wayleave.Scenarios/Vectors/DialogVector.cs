using System.Buffers.Binary;
using System.Security.Cryptography;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

// A capture without a replay object still says what a replay needs, when its dialog is simple: every message is one
// packet, nothing is lost, and each packet follows from those before it.
//
//   queue pairs    their numbers are where packets go to, their first PSNs those of the first requests; where the
//                  connection is made in the capture, its messages say so, and the manager takes them through
//   memory         what the peer names by key and address; the content is what READs and atomics were answered with,
//                  but for what had come over the wire before and is still there
//   work requests  one for each request, with its payload
//   receives       one for each SEND of the peer

/// <summary>Makes the replay object of a capture that has none, for one side of it. Pure.</summary>
internal static class DialogVector
{
    /// <summary>Local memory of the side: a slot for each packet, for what is sent and what comes.</summary>
    public const int SlotBytes = 4096;

    /// <summary>The region with the slots.</summary>
    public const string LocalName = "local";

    private const ulong LocalVa = 0x1000_0000; // where nothing else is
    private const int WordBytes = 8;
    private const uint UnknownQpn = 0x100;
    private const uint SmallKeys = 0x7E00_0000;

    private static readonly string[] s_access = ["LOCAL_WRITE", "REMOTE_WRITE", "REMOTE_READ", "REMOTE_ATOMIC"];

    /// <summary>Where the packet of that index has its slot, in the region of that address.</summary>
    public static ulong SlotVa(ulong local, int index) => local + (ulong)index * SlotBytes;

    /// <summary>
    /// The first place for so many bytes, from a customary one on, that shares none with what is taken. Where regions
    /// leave no room at all some are too large to be replayed, and any place will do.
    /// </summary>
    public static ulong FreeVa(IReadOnlyCollection<(ulong From, ulong To)> taken, ulong length)
    {
        ulong va = LocalVa;
        for (int i = 0; i <= 2 * taken.Count; i++)
        {
            (ulong From, ulong To) hit = taken.FirstOrDefault(t => va < t.To && t.From < va + length);
            if (hit.To == 0)
            {
                break;
            }

            ulong behind = (hit.To + SlotBytes - 1) & ~(ulong)(SlotBytes - 1);
            bool fits = behind >= hit.To && behind <= ulong.MaxValue - length;
            va = fits ? behind : SlotBytes;
        }

        return va;
    }

    /// <summary>
    /// The key under which our side has what the captured one had under that: ours are never below 256
    /// (<see cref="KeyTag"/>).
    /// </summary>
    public static uint KeyHere(uint key) => key >> KeyTag.Bits == 0 ? key | SmallKeys : key;

    /// <summary>Why nothing can be derived, as a phrase; null when it can.</summary>
    public static string? WhyNot(Capture capture)
    {
        foreach (CapturedPacket packet in capture.Packets)
        {
            if (!packet.TryView(out PacketView view))
            {
                return $"packet {packet.Index} is damaged, and there is no replay object";
            }

            bool isKnown = view.Opcode switch
            {
                Opcode.UdSendOnly => view.DestQp == 1 && IsManagement(view),
                Opcode.RcAcknowledge => view.Aeth.Kind == AethKind.Acknowledge,
                Opcode.RcReadRequest => view.Reth.Length <= SlotBytes,
                Opcode.RcSendOnly or Opcode.RcWriteOnly or Opcode.RcReadResponseOnly
                    or Opcode.RcCompareSwap or Opcode.RcFetchAdd or Opcode.RcAtomicAcknowledge => true,
                _ => false,
            };
            if (!isKnown || view.PayloadBytes > SlotBytes)
            {
                return $"packet {packet.Index}, {OpcodeTraits.NameOf(view.Opcode)}, without a replay object";
            }
        }

        return null;
    }

    /// <summary>What our side is, and what is to come of it; the other side is empty.</summary>
    public static VectorReplay Derive(Capture capture, CaptureVector vector, bool isSideA)
    {
        Facts facts = new(capture, vector, isSideA);
        facts.Read();
        VectorSide own = facts.Side();
        VectorSide other = own with { Mrs = [], Recv = [], WorkRequests = [] };
        List<VectorCompletion> completions = facts.Completions;
        string name = isSideA ? "A" : "B";
        return new VectorReplay
        {
            Schema = VectorReplay.KnownSchema,
            Profile = ReplaySupport.RxeProfile,
            A = isSideA ? own : other,
            B = isSideA ? other : own,
            Loss = null,
            Expect = new VectorExpectation
            {
                Completions = isSideA ? new(completions, []) : new([], completions),
                NoCompletion = [],
                FinalQpState = new(facts.FinalState, facts.FinalState),
                PeerMemory = facts.Memory(name),
            },
        };
    }

    /// <summary>Of a message of the connection manager, which it is.</summary>
    public static MadHeader MessageOf(in PacketView view) =>
        MadHeader.TryParse(view.Payload, out MadHeader header) ? header : default;

    /// <summary>
    /// Whether an answer shows that the application has put something else where the peer had written: most bytes
    /// differ, and not just some, which would be somebody's mistake.
    /// </summary>
    public static bool IsChanged(Dictionary<ulong, byte> written, ulong va, ReadOnlySpan<byte> answer)
    {
        int balance = 0;
        for (int i = 0; i < answer.Length; i++)
        {
            balance += !written.TryGetValue(va + (ulong)i, out byte old) ? 0 : old == answer[i] ? -1 : 1;
        }

        return balance > 0;
    }

    /// <summary>Eight bytes of memory, in the order of the captured hosts.</summary>
    public static byte[] Word(ulong value)
    {
        byte[] bytes = new byte[WordBytes];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        return bytes;
    }

    private static bool IsManagement(in PacketView view) =>
        MadHeader.TryParse(view.Payload, out MadHeader header)
        && header.Attribute is CmMessageId.ConnectRequest or CmMessageId.ConnectReply or CmMessageId.ReadyToUse
            or CmMessageId.ConnectReject or CmMessageId.DisconnectRequest or CmMessageId.DisconnectReply;

    // What the packets of a capture say of one side, in their order.
    private sealed class Facts(Capture capture, CaptureVector vector, bool isSideA)
    {
        private readonly SortedDictionary<uint, (ulong From, ulong To)> _regions = [];
        private readonly Dictionary<ulong, byte> _content = []; // of the memory that the peer names
        private readonly List<(ulong Va, int Length)> _ranges = [];
        private readonly HashSet<(ulong Va, int Length)> _knownRanges = [];
        private readonly Dictionary<uint, ulong> _atomicAnswers = []; // our first one of each PSN
        private readonly Dictionary<uint, ulong> _readsByPsn = [];
        private readonly Dictionary<uint, VectorWorkRequest> _requestsByPsn = [];
        private readonly List<VectorWorkRequest> _requests = [];
        private readonly List<(int Index, uint Length)> _receives = [];
        private uint? _ownQpn;
        private uint? _peerQpn;
        private uint? _sqPsn;
        private uint? _rqPsn;
        private bool _isManaged;
        private bool _asks;
        private uint _localKey = 0x7F00_0000;
        private ulong _localVa;

        private ulong LocalBytes => (ulong)capture.Packets.Count * SlotBytes;

        public List<VectorCompletion> Completions { get; } = [];

        public string FinalState { get; private set; } = "RTS";

        public void Read()
        {
            Index();
            foreach (CapturedPacket packet in capture.Packets)
            {
                if (packet.TryView(out PacketView view) && vector.Packets[packet.Index].IsFromA != isSideA)
                {
                    NoteRegion(view);
                }
            }

            _localVa = FreeVa(_regions.Values, LocalBytes);
            foreach (CapturedPacket packet in capture.Packets)
            {
                packet.TryView(out PacketView view);
                bool isOurs = vector.Packets[packet.Index].IsFromA == isSideA;
                if (view.Opcode == Opcode.UdSendOnly)
                {
                    ReadMessage(view, isOurs);
                }
                else if (isOurs)
                {
                    ReadOurs(packet.Index, view);
                }
                else
                {
                    ReadTheirs(packet.Index, view);
                }
            }

            FinalState = _isManaged && _ownQpn is null ? "RESET" : FinalState;
        }

        // What is looked for all over the capture, once: it may have tens of thousands of packets.
        private void Index()
        {
            HashSet<uint> keys = [];
            foreach (CapturedPacket packet in capture.Packets)
            {
                if (!packet.TryView(out PacketView view))
                {
                    continue;
                }

                if (view.Traits.Has(ExtensionHeaders.Reth))
                {
                    keys.Add(view.Reth.RKey);
                }

                if (view.Traits.Has(ExtensionHeaders.AtomicEth))
                {
                    keys.Add(view.AtomicEth.RKey);
                }

                if (view.Opcode == Opcode.RcAtomicAcknowledge && vector.Packets[packet.Index].IsFromA == isSideA)
                {
                    _atomicAnswers.TryAdd(view.Psn, view.AtomicAck);
                }
            }

            while (keys.Contains(_localKey))
            {
                _localKey++;
            }
        }

        public VectorSide Side()
        {
            FrameHeader header = capture.Packets[0].Header;
            bool isFirstOurs = vector.Packets[0].IsFromA == isSideA;
            (Gid own, Gid peer) = isFirstOurs
                ? (header.Source, header.Destination)
                : (header.Destination, header.Source);
            List<VectorRegion> regions =
            [
                Region(LocalName, _localVa, LocalBytes, _localKey),
                .. _regions.Select(r => Region($"0x{r.Key:x}", r.Value.From, r.Value.To - r.Value.From, r.Key)),
            ];
            return new VectorSide
            {
                Qp = new VectorQueuePair
                {
                    Qpn = _ownQpn ?? UnknownQpn,
                    Type = "RC",
                    State = _isManaged ? "RESET" : "RTS",
                    SgidIp = own.ToString(),
                    DgidIp = peer.ToString(),
                    DestQpn = _peerQpn ?? UnknownQpn,
                    PathMtu = SlotBytes,
                    AccessFlags = s_access,
                    SqPsn = _sqPsn ?? 0,
                    RqPsn = _rqPsn ?? 0,
                    RetryCnt = 7,
                    RnrRetry = 7,
                    TimeoutCode = 0,
                    MinRnrTimerCode = 12,
                    MaxRdAtomic = 16,
                    MaxDestRdAtomic = 16,
                    Cap = new VectorCapabilities(
                        Math.Max(1, _requests.Count), Math.Max(1, _receives.Count), 1, 1, 0),
                },
                Mrs = regions,
                Mws = [],
                Recv =
                [
                    .. _receives.Select(r => new VectorReceive
                    {
                        Index = r.Index,
                        WrId = (ulong)r.Index,
                        Sge = [new VectorSge(new(SlotVa(_localVa, r.Index)), r.Length, new(_localKey))],
                        When = "before",
                    }),
                ],
                WorkRequests = _requests,
            };
        }

        public List<VectorMemory> Memory(string side) =>
        [
            .. _ranges.Select(r =>
            {
                byte[] bytes = [.. Enumerable.Range(0, r.Length).Select(i => _content[r.Va + (ulong)i])];
                return new VectorMemory
                {
                    Side = side,
                    Va = new(r.Va),
                    Length = r.Length,
                    Sha256 = Convert.ToHexStringLower(SHA256.HashData(bytes)),
                };
            }),
        ];

        private static VectorRegion Region(string name, ulong va, ulong length, uint key) => new()
        {
            Name = name,
            Va = new(va),
            Length = length,
            LKey = new(key),
            RKey = new(key),
            Access = s_access,
            InitialContent = new VectorContent { Rule = "zero" },
        };

        private void ReadMessage(in PacketView view, bool isOurs)
        {
            _isManaged = true;
            switch (MessageOf(view).Attribute)
            {
                case CmMessageId.ConnectRequest:
                    NoteNumber(CmRequest.Parse(view.Payload).QpNumber, isOurs);
                    _asks = isOurs;
                    break;
                case CmMessageId.ConnectReply:
                    NoteNumber(CmReply.Parse(view.Payload).QpNumber, isOurs);
                    break;
                case CmMessageId.ConnectReject when _asks != isOurs:
                case CmMessageId.DisconnectRequest:
                    FinalState = "ERR";
                    break;
                default:
                    break;
            }
        }

        private void NoteNumber(uint number, bool isOurs)
        {
            _ownQpn = isOurs ? number : _ownQpn;
            _peerQpn = isOurs ? _peerQpn : number;
        }

        private void ReadOurs(int index, in PacketView view)
        {
            _peerQpn ??= view.DestQp;
            if (view.Opcode == Opcode.RcReadResponseOnly && _readsByPsn.TryGetValue(view.Psn, out ulong va))
            {
                NoteAnswered(va, view.Payload);
            }

            string? opcode = view.Opcode switch
            {
                Opcode.RcSendOnly => "IBV_WR_SEND",
                Opcode.RcWriteOnly => "IBV_WR_RDMA_WRITE",
                Opcode.RcReadRequest => "IBV_WR_RDMA_READ",
                Opcode.RcCompareSwap => "IBV_WR_ATOMIC_CMP_AND_SWP",
                Opcode.RcFetchAdd => "IBV_WR_ATOMIC_FETCH_AND_ADD",
                _ => null,
            };
            if (opcode is null)
            {
                return;
            }

            _sqPsn ??= view.Psn;
            bool isAtomic = view.Traits.Has(ExtensionHeaders.AtomicEth);
            bool hasReth = view.Traits.Has(ExtensionHeaders.Reth);
            uint length = isAtomic ? WordBytes : hasReth ? view.Reth.Length : (uint)view.PayloadBytes;
            VectorWorkRequest request = new()
            {
                Index = index,
                WrId = (ulong)index,
                Opcode = opcode,
                Flags = view.Solicited ? ["SIGNALED", "SOLICITED"] : ["SIGNALED"],
                Sge = length == 0 ? [] : [new VectorSge(new(SlotVa(_localVa, index)), length, new(_localKey))],
                RemoteAddr = isAtomic ? new(view.AtomicEth.Va) : hasReth ? new(view.Reth.Va) : null,
                RKey = isAtomic ? new(view.AtomicEth.RKey) : hasReth ? new(view.Reth.RKey) : null,
                Compare = isAtomic ? new(view.AtomicEth.Compare) : null,
                SwapOrAdd = isAtomic ? new(view.AtomicEth.SwapOrAdd) : null,
                Post = new VectorPost("start"),
            };
            _requests.Add(request);
            _requestsByPsn[view.Psn] = request;
        }

        private void ReadTheirs(int index, in PacketView view)
        {
            _ownQpn ??= view.DestQp;
            if (view.Traits.IsResponse)
            {
                ReadAnswer(view);
                return;
            }

            _rqPsn ??= view.Psn;
            if (view.Opcode == Opcode.RcSendOnly)
            {
                _receives.Add((index, SlotBytes));
                Complete((ulong)index, "IBV_WC_RECV", (uint)view.PayloadBytes);
                Expect(SlotVa(_localVa, index), view.Payload);
            }
            else if (view.Traits.Has(ExtensionHeaders.AtomicEth))
            {
                ExecuteAtomic(view);
            }
            else if (view.Reth.Length > 0)
            {
                _readsByPsn[view.Psn] = view.Reth.Va;
                if (view.Opcode == Opcode.RcWriteOnly)
                {
                    Expect(view.Reth.Va, view.Payload);
                }
            }
        }

        // The application may have changed since what the peer had written.
        private void NoteAnswered(ulong va, ReadOnlySpan<byte> bytes)
        {
            bool isChanged = IsChanged(_content, va, bytes);
            for (int i = 0; i < bytes.Length; i++)
            {
                if (isChanged && _content.ContainsKey(va + (ulong)i))
                {
                    _content[va + (ulong)i] = bytes[i];
                }
            }
        }

        private void ReadAnswer(in PacketView view)
        {
            if (!_requestsByPsn.Remove(view.Psn, out VectorWorkRequest? request))
            {
                return;
            }

            Complete(request.WrId, request.Opcode switch
            {
                "IBV_WR_SEND" => "IBV_WC_SEND",
                "IBV_WR_RDMA_WRITE" => "IBV_WC_RDMA_WRITE",
                "IBV_WR_RDMA_READ" => "IBV_WC_RDMA_READ",
                "IBV_WR_ATOMIC_CMP_AND_SWP" => "IBV_WC_COMP_SWAP",
                _ => "IBV_WC_FETCH_ADD",
            }, byteLength: null);
            if (view.Opcode == Opcode.RcReadResponseOnly)
            {
                Expect(SlotVa(_localVa, request.Index), view.Payload);
            }
            else if (view.Opcode == Opcode.RcAtomicAcknowledge)
            {
                Expect(SlotVa(_localVa, request.Index), Word(view.AtomicAck));
            }
        }

        // In the order of the host, which is little-endian as the captured ones were.
        private void ExecuteAtomic(in PacketView view)
        {
            if (_atomicAnswers.TryGetValue(view.Psn, out ulong original))
            {
                AtomicEth atomic = view.AtomicEth;
                ulong after = view.Opcode == Opcode.RcFetchAdd ? original + atomic.SwapOrAdd
                    : original == atomic.Compare ? atomic.SwapOrAdd : original;
                Expect(atomic.Va, Word(after));
            }
        }

        // What the peer names must be there from the start, and nothing of ours in it.
        private void NoteRegion(in PacketView view)
        {
            if (view.Traits.Has(ExtensionHeaders.AtomicEth))
            {
                Widen(view.AtomicEth.RKey, view.AtomicEth.Va, WordBytes);
            }
            else if (view.Traits.Has(ExtensionHeaders.Reth) && view.Reth.Length > 0)
            {
                Widen(view.Reth.RKey, view.Reth.Va, view.Reth.Length);
            }
        }

        private void Widen(uint theirs, ulong va, uint length)
        {
            uint key = KeyHere(theirs);
            (ulong from, ulong to) = _regions.GetValueOrDefault(key, (va, va));
            _regions[key] = (Math.Min(from, va), Math.Max(to, va + length));
        }

        private void Expect(ulong va, ReadOnlySpan<byte> bytes)
        {
            for (int i = 0; i < bytes.Length; i++)
            {
                _content[va + (ulong)i] = bytes[i];
            }

            if (bytes.Length > 0 && _knownRanges.Add((va, bytes.Length)))
            {
                _ranges.Add((va, bytes.Length));
            }
        }

        private void Complete(ulong wrId, string opcode, uint? byteLength) => Completions.Add(new VectorCompletion
        {
            WrId = wrId,
            Status = "IBV_WC_SUCCESS",
            Opcode = opcode,
            ByteLen = byteLength,
            WcFlags = null,
            Imm = null,
        });
    }
}
