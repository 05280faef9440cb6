namespace Wayleave.Core.Checking;

/// <summary>
/// A kind of lock, or of something that is as good as one: order is kept between kinds, not between single locks
/// (<c>lock_class_key</c> of lockdep).
/// </summary>
public readonly record struct LockClass
{
    /// <summary>How many kinds a host can tell apart.</summary>
    public const int CountMax = 64;

    internal LockClass(int number, string name) => (Number, Name) = (number, name);

    /// <summary>The lock of an address space; a page fault takes it (<c>mmap_lock</c>).</summary>
    public static LockClass AddressSpace { get; } = new(0, "address-space lock");

    /// <summary>Any reservation; several are held at once under one ticket.</summary>
    public static LockClass Reservation { get; } = new(1, "reservation");

    /// <summary>An allocation that may have to reclaim memory first (<c>fs_reclaim</c>, GFP_KERNEL).</summary>
    public static LockClass Reclaim { get; } = new(2, "memory reclaim");

    /// <summary>The mapping of a file's pages (<c>i_mmap_rwsem</c>).</summary>
    public static LockClass PageMapping { get; } = new(3, "page mapping lock");

    /// <summary>The time during which an address space's notifiers are told to stop (<c>mmu_notifier</c>).</summary>
    public static LockClass Notifier { get; } = new(4, "notifier");

    /// <summary>
    /// The pseudo-lock of fences: a signalling section holds it, a wait takes it (<c>dma_fence_lockdep_map</c>).
    /// </summary>
    public static LockClass FenceSignaling { get; } = new(5, "fence signalling");

    /// <summary>
    /// The order that dma-resv.c teaches lockdep at boot: each may be taken while those before it are held.
    /// </summary>
    internal static IReadOnlyList<LockClass> EstablishedOrder { get; } =
        [AddressSpace, Reservation, Reclaim, PageMapping, Notifier, FenceSignaling];

    /// <summary>Its place in the host's table.</summary>
    public int Number { get; }

    public string Name { get; }

    public override string ToString() => Name;
}
