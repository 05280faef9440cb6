using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;

namespace Wayleave.Host.Connections;

/// <summary>
/// The peer said no to a connection (REJ, <c>RDMA_CM_EVENT_REJECTED</c>): its connection manager, or its application.
/// </summary>
public sealed class ConnectionRefusedException : WayleaveException
{
    internal ConnectionRefusedException(string operation, CmRejectReason refusal, ReadOnlyMemory<byte> privateData)
        : base(Errno.ECONNREFUSED, operation, $"the peer says no: {refusal}") =>
        (Refusal, PrivateData) = (refusal, privateData);

    /// <summary>
    /// Why. <see cref="CmRejectReason.ConsumerDefined"/> is an application's no; numbers that have no name here come as
    /// they are.
    /// </summary>
    public CmRejectReason Refusal { get; }

    /// <summary>What the peer's application said about it, with zeros behind it up to 148 bytes.</summary>
    public ReadOnlyMemory<byte> PrivateData { get; }
}
