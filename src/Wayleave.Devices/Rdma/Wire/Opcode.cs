namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The BTH opcodes this stack knows (IBTA vol. 1, 9.2.1; <c>include/rdma/ib_pack.h</c>). The top three bits are the
/// transport: 000 RC, 001 UC, 011 UD. A byte with no name here is dropped, RD and XRC included; what each one carries
/// is in <see cref="OpcodeTraits"/>.
/// </summary>
public enum Opcode : byte
{
    RcSendFirst = 0x00,
    RcSendMiddle = 0x01,
    RcSendLast = 0x02,
    RcSendLastWithImmediate = 0x03,
    RcSendOnly = 0x04,
    RcSendOnlyWithImmediate = 0x05,
    RcWriteFirst = 0x06,
    RcWriteMiddle = 0x07,
    RcWriteLast = 0x08,
    RcWriteLastWithImmediate = 0x09,
    RcWriteOnly = 0x0A,
    RcWriteOnlyWithImmediate = 0x0B,
    RcReadRequest = 0x0C,
    RcReadResponseFirst = 0x0D,
    RcReadResponseMiddle = 0x0E,
    RcReadResponseLast = 0x0F,
    RcReadResponseOnly = 0x10,
    RcAcknowledge = 0x11,
    RcAtomicAcknowledge = 0x12,
    RcCompareSwap = 0x13,
    RcFetchAdd = 0x14,
    RcSendLastWithInvalidate = 0x16,
    RcSendOnlyWithInvalidate = 0x17,
    RcFlush = 0x1C,
    RcAtomicWrite = 0x1D,

    UcSendFirst = 0x20,
    UcSendMiddle = 0x21,
    UcSendLast = 0x22,
    UcSendLastWithImmediate = 0x23,
    UcSendOnly = 0x24,
    UcSendOnlyWithImmediate = 0x25,
    UcWriteFirst = 0x26,
    UcWriteMiddle = 0x27,
    UcWriteLast = 0x28,
    UcWriteLastWithImmediate = 0x29,
    UcWriteOnly = 0x2A,
    UcWriteOnlyWithImmediate = 0x2B,

    UdSendOnly = 0x64,
    UdSendOnlyWithImmediate = 0x65,

    /// <summary>Congestion notification packet: 16 reserved bytes, BECN set, no place in any sequence.</summary>
    CongestionNotification = 0x81,
}
