namespace Wayleave.Devices.Rdma.Connections;

/// <summary>The messages of the connection manager, by their MAD attribute id (<c>ib_cm.h</c>).</summary>
public enum CmMessageId : ushort
{
    ConnectRequest = 0x10,
    MessageReceipt = 0x11,
    ConnectReject = 0x12,
    ConnectReply = 0x13,
    ReadyToUse = 0x14,
    DisconnectRequest = 0x15,
    DisconnectReply = 0x16,
    ServiceIdRequest = 0x17,
    ServiceIdReply = 0x18,
    LoadAlternatePath = 0x19,
    AlternatePathResponse = 0x1A,
}
