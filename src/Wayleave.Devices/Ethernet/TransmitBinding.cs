using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Ethernet;

/// <summary>
/// A shared buffer that segments are sent from (<c>bind-tx</c>; <c>net_devmem_bind_dmabuf</c> with TO_DEVICE). Port
/// token held by the caller, unless a member says otherwise.
/// </summary>
public sealed class TransmitBinding
{
    private readonly HostContext _host;
    private readonly Action _handleReleased;
    private Action? _releasedCallbacks;
    private long _references;
    private bool _isUnbound;
    private bool _isReleasing;
    private volatile bool _isReleased;

    internal TransmitBinding(
        HostContext host, PciFunction device, uint id, BoundMemory memory, SharedBuffer buffer)
    {
        (_host, Device, Id, Memory) = (host, device, id, memory);
        (BufferName, LengthBytes) = (buffer.Name, buffer.SizeBytes);
        _handleReleased = HandleReleased;
    }

    /// <summary>Of the same numbers as those of <see cref="MemoryBinding"/>.</summary>
    public uint Id { get; }

    /// <summary>The NIC whose addresses the memory was mapped for: no other can send from it.</summary>
    public PciFunction Device { get; }

    /// <summary>For people and proofs.</summary>
    public string Name => Memory.Name;

    /// <summary>The buffer's name when it was bound.</summary>
    public string BufferName { get; }

    public ulong LengthBytes { get; }

    public ImporterKind Kind => Memory.Kind;

    /// <summary>Readable without the token.</summary>
    public BindingState State => _isReleased ? BindingState.Released
        : _isUnbound ? BindingState.Unbound
        : Memory.IsRevoked ? BindingState.Revoked
        : BindingState.Bound;

    /// <summary>The owner has taken the memory back. Readable without the token.</summary>
    public bool IsRevoked => Memory.IsRevoked;

    /// <summary>Sends that are not completely acknowledged.</summary>
    public long References => _references;

    /// <summary>Bytes that were copied out of the memory into frames, repetitions included.</summary>
    public long BytesSent { get; internal set; }

    internal BoundMemory Memory { get; }

    /// <summary>
    /// A send of <paramref name="lengthBytes"/> from <paramref name="offset"/> on uses the memory until
    /// <see cref="Release"/>: it may have to be sent again until the last byte is acknowledged.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> once it is unbound, <see cref="Errno.ENODEV"/> once it is revoked,
    /// <see cref="Errno.EFAULT"/> for a range outside the buffer.
    /// </returns>
    public Errno TryRetain(ulong offset, ulong lengthBytes)
    {
        if (_isUnbound)
        {
            return Errno.EINVAL;
        }

        if (Memory.IsRevoked)
        {
            return Errno.ENODEV;
        }

        if (offset >= LengthBytes || lengthBytes > LengthBytes - offset)
        {
            return Errno.EFAULT;
        }

        _references++;
        return Errno.Success;
    }

    /// <summary>
    /// One send less. The last one may end a binding that was given up: never with the host lock held.
    /// </summary>
    public void Release()
    {
        if (_references == 0)
        {
            throw new InvalidOperationException($"{Name} was released more often than retained");
        }

        _references--;
        ReleaseMemoryIfIdle();
    }

    /// <summary>
    /// Runs <paramref name="callback"/> when nothing of the binding is left, after the host lock was released; false
    /// when that was before. Host lock held by the caller, not the token.
    /// </summary>
    public bool TryAddReleased(Action callback)
    {
        _host.AssertHeld();
        if (_isReleased)
        {
            return false;
        }

        _releasedCallbacks += callback;
        return true;
    }

    public override string ToString() => Name;

    internal void Unbind()
    {
        _isUnbound = true;
        ReleaseMemoryIfIdle();
    }

    private void ReleaseMemoryIfIdle()
    {
        if (!_isUnbound || _isReleasing || (_references > 0 && !Memory.IsRevoked))
        {
            return;
        }

        _isReleasing = true;
        using (_host.Enter())
        {
            Memory.BeginRelease(_handleReleased);
        }
    }

    private void HandleReleased()
    {
        _isReleased = true;
        if (_releasedCallbacks is { } callbacks)
        {
            _host.Defer(callbacks);
        }
    }
}
