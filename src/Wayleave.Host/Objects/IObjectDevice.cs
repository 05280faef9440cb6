using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Host.Removal;

namespace Wayleave.Host.Objects;

/// <summary>A device of a running host whose memory objects are made of.</summary>
public interface IObjectDevice
{
    string Name { get; }

    PciFunction Function { get; }

    /// <summary>Whether it can still be used.</summary>
    DevicePresence Presence { get; }

    /// <summary>What its memory is when nobody asks for a kind.</summary>
    StorageKind DefaultStorage { get; }

    /// <summary>Whether there are objects of that kind on it.</summary>
    bool CanStore(StorageKind storage);

    /// <summary>
    /// Takes memory whose bytes are zero once its KERNEL fences have signalled. Takes the host lock itself.
    /// </summary>
    /// <param name="request">What it is to be.</param>
    /// <param name="operation">For failures: <c>create gpu0/model of 64MiB</c>.</param>
    /// <param name="cancellation">Ends the wait for room.</param>
    /// <exception cref="WayleaveException">No room, or the device is gone; says what to do.</exception>
    Task<ObjectMemory> TakeAsync(ObjectRequest request, string operation, CancellationToken cancellation);
}

/// <summary>What memory for an object is to be.</summary>
/// <param name="Name">A name that the store has checked.</param>
/// <param name="SizeBytes">Positive.</param>
/// <param name="Storage">One that <see cref="IObjectDevice.CanStore"/> agrees to.</param>
public sealed record ObjectRequest(string Name, ulong SizeBytes, StorageKind Storage);
