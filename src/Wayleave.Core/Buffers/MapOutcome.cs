using Wayleave.Core.Fences;

namespace Wayleave.Core.Buffers;

public enum MapOutcomeKind
{
    Mapped,
    Refused,

    /// <summary>A fence must signal first; then ask again.</summary>
    MustWait,
}

/// <summary>What a map came to: a list, an errno, or a fence to wait for.</summary>
public readonly record struct MapOutcome
{
    private MapOutcome(MapOutcomeKind kind, DmaAddressList? addresses, Errno errno, Fence? fence) =>
        (Kind, Addresses, Errno, Fence) = (kind, addresses, errno, fence);

    public MapOutcomeKind Kind { get; }

    /// <summary>Set when <see cref="MapOutcomeKind.Mapped"/>.</summary>
    public DmaAddressList? Addresses { get; }

    /// <summary>Set when <see cref="MapOutcomeKind.Refused"/>.</summary>
    public Errno Errno { get; }

    /// <summary>Set when <see cref="MapOutcomeKind.MustWait"/>.</summary>
    public Fence? Fence { get; }

    public static MapOutcome Mapped(DmaAddressList addresses) =>
        new(MapOutcomeKind.Mapped, addresses, Errno.Success, null);

    public static MapOutcome Refused(Errno errno) => new(MapOutcomeKind.Refused, null, errno, null);

    public static MapOutcome MustWait(Fence fence) => new(MapOutcomeKind.MustWait, null, Errno.Success, fence);
}
