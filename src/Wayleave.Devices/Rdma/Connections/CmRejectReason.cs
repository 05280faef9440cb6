namespace Wayleave.Devices.Rdma.Connections;

/// <summary>Why a connection was refused (<c>enum ib_cm_rej_reason</c>, same numbers; those in use here).</summary>
public enum CmRejectReason : ushort
{
    None = 0,
    NoQueuePair = 1,
    NoResources = 3,
    Timeout = 4,
    Unsupported = 5,
    InvalidCommunicationId = 6,
    InvalidServiceId = 8,
    InvalidTransport = 9,
    StaleConnection = 10,
    InvalidGid = 12,
    InvalidMtu = 26,
    ConsumerDefined = 28,
    DuplicateLocalId = 30,
    InvalidClassVersion = 31,
}
