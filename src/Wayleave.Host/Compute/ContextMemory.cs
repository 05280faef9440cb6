using Wayleave.Core;
using Wayleave.Core.AddressSpaces;

namespace Wayleave.Host.Compute;

// The process whose memory a GPU reaches is a client's, and its memory is here: the host maps it, and reclaim takes
// pages of one client for another through the notifiers of their GPUs. Host lock held by the caller, unless a member
// says otherwise; none is held while an operation waits.

/// <summary>
/// Memory of a client that is no buffer: pages of the machine, taken as they are touched, swapped out when others need
/// them. What its GPU does then is the host's choice (<see cref="Devices.Gpu.Compute.GpuUserMemory"/>).
/// </summary>
public sealed class ContextMemory
{
    private readonly HostContext _host;

    internal ContextMemory(HostContext host, MemorySystem memory, string name, PinLimits limits)
    {
        _host = host;
        Space = new AddressSpace(memory, name, limits);
    }

    public AddressSpace Space { get; }

    /// <summary>What the client has pinned of what it may, where an error may be about that; else null.</summary>
    internal string? DescribeLimit(Errno errno)
    {
        PinAccount pins = Space.Pins;
        if (errno is not (Errno.EPERM or Errno.ENOMEM) || pins.Limits == PinLimits.None)
        {
            return null;
        }

        string has = ByteSize.ToText(pins.Pages * PageFrame.SizeBytes);
        string may = ByteSize.ToText((long)pins.Limits.LimitBytes);
        return $"the client has {has} pinned of the {may} that one may";
    }

    /// <summary>Maps whole pages. Without the host lock.</summary>
    internal Task<(Errno Errno, AddressRange Range)> MapAsync(ulong sizeBytes) =>
        MapAsync(new RegionRequest { LengthBytes = sizeBytes });

    /// <summary>Maps what is asked for. Without the host lock.</summary>
    internal async Task<(Errno Errno, AddressRange Range)> MapAsync(RegionRequest request)
    {
        MapOperation map;
        using (_host.Enter())
        {
            map = Space.Map(request);
        }

        await RunAsync(map).ConfigureAwait(false);
        return (map.Errno, map.Addresses);
    }

    /// <summary>
    /// Unmaps, and waits for whoever uses the pages; EBUSY when somebody does not let them go. Without the host lock.
    /// </summary>
    internal Task<Errno> UnmapAsync(AddressRange range) => RunAsync(() => Space.Unmap(range));

    /// <summary>The client has ended: every page is free afterwards. Without the host lock.</summary>
    internal Task ExitAsync() => RunAsync(() => Space.Exit());

    private async Task<Errno> RunAsync(Func<SpaceOperation> make)
    {
        SpaceOperation operation;
        using (_host.Enter())
        {
            operation = make();
        }

        await RunAsync(operation).ConfigureAwait(false);
        return operation.Errno;
    }

    private async Task RunAsync(SpaceOperation operation)
    {
        while (true)
        {
            TaskCompletionSource ready = new(TaskCreationOptions.RunContinuationsAsynchronously);
            using (_host.Enter())
            {
                if (operation.Proceed())
                {
                    return;
                }

                if (!operation.TryAddReadyCallback(ready.SetResult))
                {
                    continue;
                }
            }

            await ready.Task.ConfigureAwait(false);
        }
    }
}
