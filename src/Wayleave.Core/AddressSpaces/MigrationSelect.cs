namespace Wayleave.Core.AddressSpaces;

/// <summary>Which pages of a range a migration takes (<c>enum migrate_vma_direction</c>).</summary>
[Flags]
public enum MigrationSelect
{
    None = 0,

    /// <summary>Pages of the machine, and pages that were never written.</summary>
    System = 1,

    /// <summary>Private pages of devices of the same owner.</summary>
    DevicePrivate = 2,

    /// <summary>Coherent pages of devices of the same owner.</summary>
    DeviceCoherent = 4,
}

/// <summary>Where a migration stands. Between any two of them others run.</summary>
public enum MigrationState
{
    Created,

    /// <summary>Mirrors are told; pages are locked and their entries say <i>between two places</i>.</summary>
    Collecting,

    /// <summary>Entries of other processes go the same way; what is pinned is dropped from the set.</summary>
    Isolating,

    /// <summary>Targets are allocated and the driver copies.</summary>
    Copying,

    /// <summary>Pages change places; what failed stays.</summary>
    Moving,

    /// <summary>Entries show where each page is now; locks are let go, old pages are free.</summary>
    Finalising,

    Completed,
}
