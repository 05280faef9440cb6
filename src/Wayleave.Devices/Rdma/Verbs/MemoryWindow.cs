using Wayleave.Core;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary><c>enum ibv_mw_type</c>, same numbers.</summary>
public enum MemoryWindowType
{
    /// <summary>Any queue pair of its domain may be reached through it. Bound and unbound by binding it.</summary>
    Type1 = 1,

    /// <summary>
    /// Type 2B: bound by a work request, to one queue pair, and ended by an invalidation of either side.
    /// </summary>
    Type2 = 2,
}

// Type 1    unbound --bind--> bound --bind--> bound elsewhere --bind of no bytes--> unbound
// Type 2    free --bind--> bound --local or remote invalidate--> free
//
// Bind, invalidate, use and deallocation all happen under the port token: a completion of an invalidation is behind
// every packet that was placed through the window, and before every one that is refused.

/// <summary>
/// A part of a region with a key of its own (<c>struct ibv_mw</c>), which can be given to a peer and taken back without
/// touching the region. The port's; what needs the token says so.
/// </summary>
public sealed class MemoryWindow : Numbered
{
    private AccessFlags _access;
    private ulong _address;
    private ulong _lengthBytes;
    private uint _boundKey;
    private QueuePair? _pair;

    internal MemoryWindow(ProtectionDomain domain, MemoryWindowType type, uint key)
        : base(key >> KeyTag.Bits)
    {
        Domain = domain;
        Type = type;
        Key = key;
        Name = $"{domain.Device.Name} mw 0x{key:x8}";
    }

    public ProtectionDomain Domain { get; }

    public MemoryWindowType Type { get; }

    /// <summary>
    /// The key that peers use once the last bind that was posted has been executed. Its low eight bits change with
    /// every bind, the others never (<c>ibv_inc_rkey</c>).
    /// </summary>
    public uint Key { get; private set; }

    /// <summary>For people and traces.</summary>
    public string Name { get; }

    /// <summary>Whether it leads anywhere. Port token held by the caller.</summary>
    public bool IsBound => Region is not null;

    /// <summary>What it is a part of; null while it is not bound. Port token held by the caller.</summary>
    public MemoryRegion? Region { get; private set; }

    /// <summary>Changes with every bind and every end of one.</summary>
    internal uint Binding { get; private set; }

    internal bool IsDeallocated { get; private set; }

    /// <summary>A bind was posted: from now on this is the key to hand out.</summary>
    internal void NotePosted(uint key) => Key = key >> KeyTag.Bits == Number ? key : Key;

    /// <summary>
    /// Binds it (<c>rxe_mw.c: rxe_check_bind_mw</c>, with the rules of IBTA 10.6.7). Zero bytes unbind a window of
    /// type 1. Port token held.
    /// </summary>
    /// <returns>EINVAL for whatever makes the work request end with MW_BIND_ERR; then nothing changed.</returns>
    internal Errno Bind(QueuePair pair, in WindowBind bind, MemoryRegion? region, uint key)
    {
        const AccessFlags Known = AccessFlags.RemoteRead | AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic
            | AccessFlags.ZeroBased;
        bool isType1 = Type == MemoryWindowType.Type1;
        bool isUnbind = isType1 && bind.LengthBytes == 0;
        bool isZeroBased = (bind.Access & AccessFlags.ZeroBased) != 0;
        bool mayBind = !IsDeallocated
            && ReferenceEquals(Domain, pair.Domain)
            && key >> KeyTag.Bits == Number
            && (bind.Access & ~Known) == 0
            && (isType1 ? !isZeroBased : !IsBound && bind.LengthBytes != 0);
        if (!mayBind || (!isUnbind && !IsBindable(region, bind)))
        {
            return Errno.EINVAL;
        }

        // Before the old one is let go: the two may be one and the same.
        if (!isUnbind && !region!.TryAddWindow())
        {
            return Errno.EINVAL;
        }

        Unbind();
        if (!isUnbind)
        {
            (Region, _address, _lengthBytes, _access, _boundKey) =
                (region, bind.Address, bind.LengthBytes, bind.Access, key);
            _pair = isType1 ? null : pair;
        }

        return Errno.Success;
    }

    /// <summary>
    /// Ends a binding by its key (LOCAL_INV, or SEND with invalidate of the peer). Port token held.
    /// </summary>
    /// <returns>EINVAL when there is none that this queue pair may end; then nothing changed.</returns>
    internal Errno Invalidate(QueuePair pair, uint key)
    {
        if (Type != MemoryWindowType.Type2 || !IsBound || _boundKey != key || !ReferenceEquals(_pair, pair))
        {
            return Errno.EINVAL;
        }

        Unbind();
        return Errno.Success;
    }

    /// <summary>The queue pair that it is bound to is reset or destroyed. Port token held.</summary>
    internal void HandleReset(QueuePair pair)
    {
        if (ReferenceEquals(_pair, pair))
        {
            Unbind();
        }
    }

    /// <summary>No further bind succeeds. Port token held.</summary>
    internal void Deallocate()
    {
        IsDeallocated = true;
        Unbind();
    }

    /// <summary>
    /// Whether a request of that queue pair may touch the range. The window's own bounds count, not those of its
    /// region.
    /// </summary>
    internal bool Permits(QueuePair pair, AccessFlags need, ulong address, ulong lengthBytes)
    {
        ulong start = Range.Address;
        return IsBound
            && ReferenceEquals(pair.Domain, Domain)
            && (_pair is null || ReferenceEquals(_pair, pair))
            && (_access & need) == need
            && address >= start
            && lengthBytes <= _lengthBytes
            && address - start <= _lengthBytes - lengthBytes;
    }

    /// <summary>What it covers, as its peers count.</summary>
    internal (ulong Address, ulong LengthBytes) Range =>
        ((_access & AccessFlags.ZeroBased) != 0 ? 0 : _address, _lengthBytes);

    /// <summary>Whether that is the key of the present binding.</summary>
    internal bool IsKey(uint key) => IsBound && _boundKey == key;

    /// <summary>An address of a peer in the terms of the region.</summary>
    internal ulong AddressOf(ulong address) =>
        (_access & AccessFlags.ZeroBased) != 0 ? _address + address : address;

    private bool IsBindable(MemoryRegion? region, in WindowBind bind)
    {
        bool needsWrite = (bind.Access & (AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic)) != 0;
        AccessFlags need = AccessFlags.WindowBind | (needsWrite ? AccessFlags.LocalWrite : AccessFlags.None);
        return region is not null
            && region.State != MemoryRegionState.Dead
            && (region.Access & AccessFlags.ZeroBased) == 0
            && region.Permits(Domain, need, bind.Address, bind.LengthBytes);
    }

    private void Unbind()
    {
        Binding++;
        Region?.RemoveWindow();
        (Region, _pair, _boundKey) = (null, null, 0);
    }
}

/// <summary>What to bind a window to (<c>struct ibv_mw_bind_info</c>).</summary>
/// <param name="LKey">The region.</param>
/// <param name="Address">First byte, within the region.</param>
/// <param name="LengthBytes">Zero unbinds a window of type 1.</param>
/// <param name="Access">
/// Remote rights; <see cref="AccessFlags.ZeroBased"/> (type 2) makes peers count from 0.
/// </param>
public readonly record struct WindowBind(uint LKey, ulong Address, ulong LengthBytes, AccessFlags Access);
