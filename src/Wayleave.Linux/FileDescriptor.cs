using System.Diagnostics;
using Microsoft.Win32.SafeHandles;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// Owns one file descriptor; closed once, by the last user, however many threads use it. 0 is a valid descriptor.
/// </summary>
public sealed class FileDescriptor : SafeHandleMinusOneIsInvalid
{
    public FileDescriptor() : base(ownsHandle: true) { }

    /// <summary>Wraps a number that the caller got from elsewhere, for example from SCM_RIGHTS.</summary>
    /// <param name="fd">The descriptor.</param>
    /// <param name="ownsHandle">Whether disposing this object closes it.</param>
    public FileDescriptor(int fd, bool ownsHandle) : base(ownsHandle) => SetHandle(fd);

    // A call that returns an int leaves the upper half of the register as it likes: -1 arrives as 0xFFFFFFFF.
    public override bool IsInvalid => (int)handle == -1;

    /// <summary>The -1 that anonymous mappings take in place of a descriptor.</summary>
    internal static FileDescriptor None { get; } = new(-1, ownsHandle: false);

    /// <summary>
    /// Keeps the descriptor open until the result is disposed: for calls that read errno themselves or take several
    /// descriptors.
    /// </summary>
    /// <exception cref="ObjectDisposedException">The descriptor is closed.</exception>
    internal Borrowed Borrow() => new(this);

    // close() is not retried on EINTR: Linux has freed the number by then, and it may be someone else's already.
    protected override bool ReleaseHandle() => Libc.close((int)handle) == 0;

    internal readonly ref struct Borrowed
    {
        private readonly FileDescriptor _owner;

        internal Borrowed(FileDescriptor owner)
        {
            bool added = false;
            owner.DangerousAddRef(ref added);
            Debug.Assert(added, "DangerousAddRef either adds or throws");
            _owner = owner;
        }

        internal int Number => (int)_owner.handle;

        public void Dispose() => _owner.DangerousRelease();
    }
}
