using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;

namespace Wayleave.Host.Objects;

/// <summary>Where the bytes of an object are.</summary>
public enum ObjectPlace
{
    /// <summary>In the memory of a GPU, behind its BAR.</summary>
    Vram,

    /// <summary>In the memory of a GPU, beyond what its BAR shows: no peer reaches it there.</summary>
    HiddenVram,

    /// <summary>In the host's own memory.</summary>
    System,

    /// <summary>In the memory of an accelerator.</summary>
    DeviceMemory,

    /// <summary>In a BAR that belongs to VFIO.</summary>
    Bar,

    /// <summary>In the controller memory buffer of a drive.</summary>
    ControllerMemory,
}

/// <summary>
/// The memory of one object: a buffer of a GPU, a range of an accelerator, a part of a BAR. Host lock held by the
/// caller.
/// </summary>
public abstract class ObjectMemory
{
    /// <summary>What others attach to.</summary>
    public abstract SharedBuffer Shared { get; }

    /// <summary>Bytes of the object; the buffer may be longer, by what its device rounds up to.</summary>
    public abstract ulong SizeBytes { get; }

    public StorageKind Storage => Shared.Exporter.Storage;

    public abstract ObjectPlace Place { get; }

    /// <summary>
    /// Physical addresses of the bytes as they are now; a move makes others. After <see cref="Free"/> it says where
    /// they were.
    /// </summary>
    public abstract DmaAddressList Addresses { get; }

    /// <summary>The revoke by which it was freed, or null.</summary>
    public abstract RevokeOperation? Freeing { get; }

    public bool IsFreed => Freeing is not null;

    /// <summary>
    /// The memory in its owner's quarantine; null before it was freed and when it never had to wait.
    /// </summary>
    public abstract QuarantineEntry? Held { get; }

    /// <summary>
    /// The owner takes the memory back: every importer is told, and it goes to somebody else once that has retired,
    /// never before. A policy that asks for less than <see cref="RetirementGrade.Drained"/> gets that.
    /// </summary>
    public abstract RevokeOperation Free(RevokePolicy policy);
}
