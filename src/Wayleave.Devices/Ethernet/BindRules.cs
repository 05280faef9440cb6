using System.Numerics;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Ethernet;

/// <summary>
/// What a binding of device memory to receive queues has to be (<c>netdev_nl_bind_rx_doit</c>, in its order), with the
/// reason for people. Changes nothing.
/// </summary>
internal static class BindRules
{
    /// <summary>Who can be stopped, or is never told.</summary>
    public static bool IsBindable(ImporterKind kind) => kind is ImporterKind.Static or ImporterKind.PinnedRevocable;

    /// <summary>Its numbers, before anything is attached.</summary>
    public static BindOutcome CheckRequest(NicPort port, SharedBuffer buffer, BindRequest request)
    {
        foreach (int queue in request.Queues)
        {
            if (queue < 0 || queue >= port.Queues.Count)
            {
                string name = port.Dma.Function.Name;
                return BindOutcome.Refused(
                    Errno.EINVAL, $"{name} has queues 0 to {port.Queues.Count - 1}, and no queue {queue}");
            }
        }

        if (request.Queues.Count == 0)
        {
            return BindOutcome.Refused(Errno.EOPNOTSUPP, "no queue was named");
        }

        bool isSane = IsBindable(request.Kind)
            && request.ChunkBytes >= NicOptions.PageBytes
            && BitOperations.IsPow2(request.ChunkBytes)
            && request.LinearBelowBytes >= 0
            && buffer.SizeBytes % (ulong)request.ChunkBytes == 0
            && buffer.SizeBytes / (ulong)request.ChunkBytes <= int.MaxValue / 2;
        return isSane
            ? BindOutcome.Bound
            : BindOutcome.Refused(
                Errno.EINVAL,
                $"{buffer.Name} has {buffer.SizeBytes} bytes, which cannot be chunks of {request.ChunkBytes} bytes");
    }

    /// <summary>
    /// Whether there is a way. A static importer takes no peer addresses, as in Linux: its exporter decides what to
    /// show it instead.
    /// </summary>
    public static BindOutcome CheckRoute(PciFunction function, BindRequest request)
    {
        if (request.Provider is not { } provider || request.Kind == ImporterKind.Static)
        {
            return BindOutcome.Bound;
        }

        if (provider.PeerDevice is not { } peer)
        {
            return BindOutcome.Refused(Errno.EREMOTEIO, $"{provider.Name} offers no memory to other devices");
        }

        PeerVerdict verdict = peer.VerdictFor(function);
        return verdict.IsSupported ? BindOutcome.Bound : BindOutcome.Refused(Errno.EREMOTEIO, verdict.Refusal);
    }

    /// <summary>Whether what was mapped is whole pages that the NIC reaches.</summary>
    public static BindOutcome CheckSegments(NicPort port, BoundMemory memory, out PeerRoute route)
    {
        ReadOnlySpan<DeviceRange> entries = memory.Attachment!.Addresses!.Entries;
        route = PeerRoute.HostMemory;
        foreach (DeviceRange entry in entries)
        {
            if (entry.LengthBytes % NicOptions.PageBytes != 0)
            {
                return BindOutcome.Refused(
                    Errno.EINVAL, $"a part of the memory has {entry.LengthBytes} bytes, not whole pages");
            }
        }

        return port.Dma.TryRoute(entries[0].Start, out route)
            ? BindOutcome.Bound
            : BindOutcome.Refused(Errno.EREMOTEIO, $"nothing answers {port.Dma.Function.Name} at {entries[0].Start}");
    }

    /// <summary><c>netif_mp_open_rxq</c>, for each queue.</summary>
    public static BindOutcome CheckQueues(NicPort port, BindRequest request)
    {
        for (int i = 0; i < request.Queues.Count; i++)
        {
            int index = request.Queues[i];
            RxQueue queue = port.Queues[index];
            if (port.Split.Mode != HeaderSplitMode.On)
            {
                return BindOutcome.Refused(Errno.EINVAL, "tcp-data-split is not on (ethtool -G NIC tcp-data-split on)");
            }

            if (port.Split.ThresholdBytes != 0)
            {
                return BindOutcome.Refused(
                    Errno.EINVAL, $"hds-thresh is {port.Split.ThresholdBytes} and has to be 0");
            }

            if (port.Program is not null)
            {
                return BindOutcome.Refused(Errno.EEXIST, "a program looks at every frame, payload included");
            }

            if (queue.Binding is { } other || request.Queues.Take(i).Contains(index))
            {
                return BindOutcome.Refused(Errno.EEXIST, $"queue {index} is bound to {queue.Binding?.Name ?? "this"}");
            }

            if (queue.Reader is not null)
            {
                return BindOutcome.Refused(Errno.EBUSY, $"somebody reads the frames of queue {index}");
            }

            if (!request.AllowsRss && port.Steering.IsInRss(index))
            {
                return BindOutcome.Refused(
                    Errno.EINVAL,
                    $"RSS spreads flows over queue {index}: take it out of the table (ethtool -X), or allow it");
            }
        }

        return BindOutcome.Bound;
    }
}
