namespace Wayleave.Devices.Ethernet;

/// <summary>Where received bytes are (<c>SCM_DEVMEM_*</c>).</summary>
public enum DevmemFragmentKind
{
    /// <summary>In the caller's own bytes: they came by a bound queue and could not be placed in its memory.</summary>
    Linear,

    /// <summary>In the memory of a binding.</summary>
    DmaBuf,
}

/// <summary>One piece of what a reader received, in order (<c>struct dmabuf_cmsg</c>).</summary>
/// <param name="Kind">Where.</param>
/// <param name="Offset">Of the first byte in the bound buffer; 0 for linear bytes.</param>
/// <param name="LengthBytes">Positive.</param>
/// <param name="Token">To be returned when the bytes are not needed any more; 0 for linear bytes.</param>
/// <param name="BindingId">Which binding; 0 for linear bytes.</param>
public readonly record struct DevmemFragment(
    DevmemFragmentKind Kind, ulong Offset, uint LengthBytes, uint Token, uint BindingId);
