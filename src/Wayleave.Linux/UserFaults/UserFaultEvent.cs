using Wayleave.Core.AddressSpaces;

namespace Wayleave.Linux.UserFaults;

/// <summary>What happened to memory that is watched by userfaultfd(2) (<c>UFFD_EVENT_*</c>).</summary>
public enum UserFaultKind
{
    /// <summary>A thread touches a page that is not there, and sleeps until it is.</summary>
    PageFault = 0x12,

    /// <summary>The process made a child.</summary>
    Fork = 0x13,

    /// <summary>A part moved to other addresses.</summary>
    Remap = 0x14,

    /// <summary>Pages are thrown away.</summary>
    Remove = 0x15,

    /// <summary>A part is unmapped.</summary>
    Unmap = 0x16,
}

/// <summary>
/// One event. Who caused it sleeps until it was taken, and after a page fault until the page is there.
/// </summary>
/// <param name="Kind">What happened.</param>
/// <param name="Addresses">Where: the page that is missing, or the range that goes; nothing after a fork.</param>
/// <param name="To">After a remap, where the range is now.</param>
/// <param name="IsWrite">Whether a page fault was a store.</param>
/// <param name="Child">After a fork, what watches the child's memory; owned by who took the event.</param>
public readonly record struct UserFaultEvent(
    UserFaultKind Kind, AddressRange Addresses, ulong To = 0, bool IsWrite = false, FileDescriptor? Child = null);
