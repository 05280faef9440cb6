using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// The right to use a <see cref="PeerResource"/>: who has it may import, pass it on, and remove the resource. With the
/// last one the resource is removed. Host lock held by the caller.
/// </summary>
public sealed class PeerHandle
{
    internal PeerHandle(PeerResource resource, string holder) => (Resource, Holder) = (resource, holder);

    public PeerResource Resource { get; }

    /// <summary>Who has it, for people: <c>process 4711</c>.</summary>
    public string Holder { get; }

    public bool IsOpen { get; private set; } = true;

    /// <summary>Makes a handle for somebody else: the fd that is sent to another process.</summary>
    /// <returns><see cref="Errno.ENODEV"/> when this one is closed.</returns>
    public Errno TryDuplicate(string holder, out PeerHandle? duplicate)
    {
        Resource.Host.AssertHeld();
        duplicate = IsOpen ? Resource.Open(holder) : null;
        return IsOpen ? Errno.Success : Errno.ENODEV;
    }

    /// <summary>
    /// Makes a device a user of the resource. It can be told to stop, or it is not let in: nothing else makes a removal
    /// end. What it imported does not keep the resource from being removed.
    /// </summary>
    /// <param name="device">Whose addresses a map will return.</param>
    /// <param name="importer">Told when the resource is taken away.</param>
    /// <param name="import">Owned by the caller until <see cref="PeerImport.Close"/>.</param>
    /// <returns>
    /// <see cref="Errno.ENODEV"/> when this handle is closed; otherwise what <see cref="SharedBuffer.TryAttach"/> says.
    /// </returns>
    public Errno TryImport(PciFunction device, IRevocableImporter importer, out PeerImport? import)
    {
        Resource.Host.AssertHeld();
        import = null;
        if (!IsOpen)
        {
            return Errno.ENODEV;
        }

        Errno errno = Resource.Buffer.TryAttach(device, importer, out Attachment? attachment);
        if (errno != Errno.Success)
        {
            return errno;
        }

        import = new PeerImport(Resource, attachment!, ownsAttachment: true);
        Resource.Add(import);
        return Errno.Success;
    }

    /// <summary>
    /// As <see cref="TryImport(PciFunction, IRevocableImporter, out PeerImport?)"/>, for a device that attaches by
    /// itself, as an RDMA adapter does for a region: its attachment stays its own.
    /// </summary>
    /// <param name="attachment">Of the resource's buffer.</param>
    /// <param name="import">Owned by the caller until <see cref="PeerImport.Close"/>, which detaches nothing.</param>
    /// <returns>
    /// <see cref="Errno.ENODEV"/> when this handle is closed, <see cref="Errno.EINVAL"/> for an attachment of another
    /// buffer.
    /// </returns>
    public Errno TryImport(Attachment attachment, out PeerImport? import)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        Resource.Host.AssertHeld();
        import = null;
        if (!IsOpen)
        {
            return Errno.ENODEV;
        }

        if (!ReferenceEquals(attachment.Buffer, Resource.Buffer))
        {
            return Errno.EINVAL;
        }

        import = new PeerImport(Resource, attachment, ownsAttachment: false);
        Resource.Add(import);
        return Errno.Success;
    }

    /// <summary>As <see cref="PeerResource.TryRemove"/>, by a holder.</summary>
    /// <returns><see cref="Errno.ENODEV"/> when this handle is closed.</returns>
    public Errno TryRemove(RevokePolicy policy, out RevokeOperation? removal)
    {
        Resource.Host.AssertHeld();
        removal = null;
        return IsOpen ? Resource.TryRemove(policy, out removal) : Errno.ENODEV;
    }

    /// <summary>The holder lets go, or is dead. The second call does nothing.</summary>
    public void Close()
    {
        Resource.Host.AssertHeld();
        if (IsOpen)
        {
            IsOpen = false;
            Resource.HandleClosed(this);
        }
    }

    public override string ToString() => $"handle of {Holder} to {Resource}";
}
