using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>What a REQ must be to be heard, and why one that is heard is refused. Pure.</summary>
internal static class CmRequestRules
{
    /// <summary>Whether it makes sense at all; else it is dropped.</summary>
    public static bool IsSane(CmRequest request, Gid source) =>
        request.QpNumber is > 1 and < Psn.Mask
        && request.LocalGid == source // nobody asks in another's name
        && request.IPVersion == (source.IsIPv4 ? 4 : 6);

    /// <summary>What its sender is told, or None.</summary>
    public static CmRejectReason WhyNot(CmRequest request, Gid own, PathMtu portMtu, bool isListenedTo) =>
        request.RemoteGid != own ? CmRejectReason.InvalidGid
        : request.Transport > 1 ? CmRejectReason.InvalidTransport
        : request.PathMtu < 1 || request.PathMtu > (int)portMtu ? CmRejectReason.InvalidMtu
        : !isListenedTo || request.ServiceId != CmRequest.ServiceIdOf(request.Port) ? CmRejectReason.InvalidServiceId
        : request.HeaderVersion != 0 ? CmRejectReason.ConsumerDefined // cma_save_ip_info: who listens is not asked
        : CmRejectReason.None;
}
