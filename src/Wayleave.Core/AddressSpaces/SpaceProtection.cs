namespace Wayleave.Core.AddressSpaces;

/// <summary>What a process may do with a region (<c>PROT_*</c>, same numbers).</summary>
[Flags]
public enum SpaceProtection
{
    None = 0,
    Read = 1,
    Write = 2,
    ReadWrite = Read | Write,
}
