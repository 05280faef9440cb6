namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// What an opcode carries and what it does to a message and to a receive queue: one row of the opcode table (IBTA vol.
/// 1, 9.2; <c>drivers/infiniband/sw/rxe/rxe_opcode.c</c>). Seven bytes, read on every packet.
/// </summary>
public readonly struct OpcodeTraits
{
    private static readonly OpcodeTraits[] s_table = new OpcodeTraits[256];
    private static readonly string[] s_names = new string[256];

    private readonly Marks _marks;
    private readonly byte _service;

    static OpcodeTraits()
    {
        const Marks Request = Marks.Request;
        const Marks Response = Marks.Response;
        const Marks Starts = Marks.StartsMessage;
        const Marks Ends = Marks.EndsMessage;
        const Marks Only = Starts | Ends;
        const Marks Consumes = Marks.ConsumesReceive;
        const Marks Completes = Marks.CompletesReceive;
        const Marks Receive = Consumes | Completes;
        const ExtensionHeaders None = ExtensionHeaders.None;
        const ExtensionHeaders Reth = ExtensionHeaders.Reth;
        const ExtensionHeaders ImmDt = ExtensionHeaders.ImmDt;

        // UC uses the first twelve opcodes of RC, 0x20 higher.
        foreach ((Opcode service, string prefix) in new[] { (Opcode.RcSendFirst, "RC"), (Opcode.UcSendFirst, "UC") })
        {
            void Both(Opcode rc, string name, ExtensionHeaders headers, PayloadRule payload, Marks marks) =>
                Add(service + (byte)rc, $"{prefix}_{name}", headers, payload, Request | marks);

            Both(Opcode.RcSendFirst, "SEND_FIRST", None, PayloadRule.ExactMtu, Starts | Consumes);
            Both(Opcode.RcSendMiddle, "SEND_MIDDLE", None, PayloadRule.ExactMtu, 0);
            Both(Opcode.RcSendLast, "SEND_LAST", None, PayloadRule.OneToMtu, Ends | Completes);
            Both(Opcode.RcSendLastWithImmediate, "SEND_LAST_IMM", ImmDt, PayloadRule.OneToMtu, Ends | Completes);
            Both(Opcode.RcSendOnly, "SEND_ONLY", None, PayloadRule.ZeroToMtu, Only | Receive);
            Both(Opcode.RcSendOnlyWithImmediate, "SEND_ONLY_IMM", ImmDt, PayloadRule.ZeroToMtu, Only | Receive);
            Both(Opcode.RcWriteFirst, "WRITE_FIRST", Reth, PayloadRule.ExactMtu, Starts);
            Both(Opcode.RcWriteMiddle, "WRITE_MIDDLE", None, PayloadRule.ExactMtu, 0);
            Both(Opcode.RcWriteLast, "WRITE_LAST", None, PayloadRule.OneToMtu, Ends);
            Both(Opcode.RcWriteLastWithImmediate, "WRITE_LAST_IMM", ImmDt, PayloadRule.OneToMtu, Ends | Receive);
            Both(Opcode.RcWriteOnly, "WRITE_ONLY", Reth, PayloadRule.ZeroToMtu, Only);
            Both(
                Opcode.RcWriteOnlyWithImmediate, "WRITE_ONLY_IMM", Reth | ImmDt, PayloadRule.ZeroToMtu, Only | Receive);
        }

        const ExtensionHeaders Aeth = ExtensionHeaders.Aeth;
        const ExtensionHeaders AtomicAckEth = ExtensionHeaders.AtomicAckEth;
        const ExtensionHeaders AtomicEth = ExtensionHeaders.AtomicEth;
        const ExtensionHeaders Deth = ExtensionHeaders.Deth;
        const ExtensionHeaders Feth = ExtensionHeaders.Feth;
        const ExtensionHeaders Ieth = ExtensionHeaders.Ieth;
        Add(Opcode.RcReadRequest, "RC_READ_REQUEST", Reth, PayloadRule.None, Request | Only);
        Add(Opcode.RcReadResponseFirst, "RC_READ_RESP_FIRST", Aeth, PayloadRule.ExactMtu, Response | Starts);
        Add(Opcode.RcReadResponseMiddle, "RC_READ_RESP_MIDDLE", None, PayloadRule.ExactMtu, Response);
        Add(Opcode.RcReadResponseLast, "RC_READ_RESP_LAST", Aeth, PayloadRule.OneToMtu, Response | Ends);
        Add(Opcode.RcReadResponseOnly, "RC_READ_RESP_ONLY", Aeth, PayloadRule.ZeroToMtu, Response | Only);
        Add(Opcode.RcAcknowledge, "RC_ACKNOWLEDGE", Aeth, PayloadRule.None, Response | Only);
        Add(
            Opcode.RcAtomicAcknowledge, "RC_ATOMIC_ACKNOWLEDGE", Aeth | AtomicAckEth,
            PayloadRule.None, Response | Only);
        Add(Opcode.RcCompareSwap, "RC_CMP_SWAP", AtomicEth, PayloadRule.None, Request | Only);
        Add(Opcode.RcFetchAdd, "RC_FETCH_ADD", AtomicEth, PayloadRule.None, Request | Only);
        Add(
            Opcode.RcSendLastWithInvalidate, "RC_SEND_LAST_INV", Ieth,
            PayloadRule.OneToMtu, Request | Ends | Completes);
        Add(Opcode.RcSendOnlyWithInvalidate, "RC_SEND_ONLY_INV", Ieth, PayloadRule.ZeroToMtu, Request | Only | Receive);
        Add(Opcode.RcFlush, "RC_FLUSH", Feth | Reth, PayloadRule.None, Request | Only);
        Add(Opcode.RcAtomicWrite, "RC_ATOMIC_WRITE", Reth, PayloadRule.EightBytes, Request | Only);
        Add(Opcode.UdSendOnly, "UD_SEND_ONLY", Deth, PayloadRule.ZeroToMtu, Request | Only | Receive);
        Add(
            Opcode.UdSendOnlyWithImmediate, "UD_SEND_ONLY_IMM", Deth | ImmDt,
            PayloadRule.ZeroToMtu, Request | Only | Receive);
        Add(Opcode.CongestionNotification, "CNP", None, PayloadRule.SixteenBytes, 0);

        for (int opcode = 0; opcode < 256; opcode++)
        {
            s_names[opcode] ??= $"UNKNOWN_{opcode:X2}";
        }
    }

    private OpcodeTraits(TransportService service, ExtensionHeaders headers, PayloadRule payload, Marks marks)
    {
        _service = (byte)service;
        Headers = headers;
        Payload = payload;
        _marks = marks;

        int offset = Bth.Size;
        offset += headers.HasFlag(ExtensionHeaders.Deth) ? Deth.Size : 0;
        offset += headers.HasFlag(ExtensionHeaders.Feth) ? Feth.Size : 0;
        RethOffset = (byte)offset;
        offset += headers.HasFlag(ExtensionHeaders.Reth) ? Reth.Size : 0;
        offset += headers.HasFlag(ExtensionHeaders.AtomicEth) ? AtomicEth.Size : 0;
        offset += headers.HasFlag(ExtensionHeaders.Aeth) ? Aeth.Size : 0;
        offset += headers.HasFlag(ExtensionHeaders.AtomicAckEth) ? AtomicAckEth.Size : 0;
        ImmDtOffset = (byte)offset;
        offset += headers.HasFlag(ExtensionHeaders.ImmDt) ? ImmDt.Size : 0;
        offset += headers.HasFlag(ExtensionHeaders.Ieth) ? Ieth.Size : 0;
        HeaderBytes = (byte)offset;
    }

    [Flags]
    private enum Marks : byte
    {
        Defined = 1 << 0,
        Request = 1 << 1,
        Response = 1 << 2,
        StartsMessage = 1 << 3,
        EndsMessage = 1 << 4,
        ConsumesReceive = 1 << 5,
        CompletesReceive = 1 << 6,
    }

    /// <summary>False for reserved opcodes and for those of RD and XRC: the packet is dropped silently.</summary>
    public bool IsDefined => (_marks & Marks.Defined) != 0;

    public TransportService Service => (TransportService)_service;

    public ExtensionHeaders Headers { get; }

    public PayloadRule Payload { get; }

    /// <summary>Bytes of the BTH and all extension headers; the payload starts there.</summary>
    public byte HeaderBytes { get; }

    /// <summary>Sent by a requester. A CNP is neither request nor response.</summary>
    public bool IsRequest => (_marks & Marks.Request) != 0;

    /// <summary>Sent by a responder.</summary>
    public bool IsResponse => (_marks & Marks.Response) != 0;

    /// <summary>First or Only, and every single-packet operation.</summary>
    public bool StartsMessage => (_marks & Marks.StartsMessage) != 0;

    /// <summary>Last or Only, and every single-packet operation.</summary>
    public bool EndsMessage => (_marks & Marks.EndsMessage) != 0;

    /// <summary>Takes a receive off the queue; without one the answer is an RNR NAK.</summary>
    public bool ConsumesReceive => (_marks & Marks.ConsumesReceive) != 0;

    /// <summary>Ends with a completion of the receive in use.</summary>
    public bool CompletesReceive => (_marks & Marks.CompletesReceive) != 0;

    internal byte RethOffset { get; }

    internal byte ImmDtOffset { get; }

    /// <summary>
    /// The row of <paramref name="opcode"/>; every byte value has one, <see cref="IsDefined"/> or not.
    /// </summary>
    public static ref readonly OpcodeTraits Of(Opcode opcode) => ref s_table[(byte)opcode];

    /// <summary>
    /// The name packet listings use: <c>RC_WRITE_FIRST</c>; <c>UNKNOWN_3F</c> for an opcode that is not defined.
    /// </summary>
    public static string NameOf(Opcode opcode) => s_names[(byte)opcode];

    public bool Has(ExtensionHeaders header) => (Headers & header) != 0;

    /// <summary>Whether a payload of that length (without pad) is allowed at that path MTU, both in bytes.</summary>
    public bool AllowsPayload(int payloadBytes, int pathMtuBytes) => Payload switch
    {
        PayloadRule.ExactMtu => payloadBytes == pathMtuBytes,
        PayloadRule.OneToMtu => payloadBytes >= 1 && payloadBytes <= pathMtuBytes,
        PayloadRule.ZeroToMtu => payloadBytes <= pathMtuBytes,
        PayloadRule.EightBytes => payloadBytes == 8,
        PayloadRule.SixteenBytes => payloadBytes == 16,
        _ => payloadBytes == 0,
    };

    private static void Add(Opcode opcode, string name, ExtensionHeaders headers, PayloadRule payload, Marks marks)
    {
        TransportService service = ((byte)opcode >> 5) switch
        {
            0 => TransportService.ReliableConnection,
            1 => TransportService.UnreliableConnection,
            3 => TransportService.UnreliableDatagram,
            _ => TransportService.Congestion,
        };
        s_table[(byte)opcode] = new OpcodeTraits(service, headers, payload, marks | Marks.Defined);
        s_names[(byte)opcode] = name;
    }
}
