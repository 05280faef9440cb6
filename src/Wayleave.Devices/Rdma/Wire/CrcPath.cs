namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The ways to compute a CRC, worst first. The processor decides; tests name one to compare it with the others.
/// </summary>
internal enum CrcPath
{
    /// <summary>Slicing by 8, on any processor.</summary>
    Table,

    /// <summary>PCLMULQDQ.</summary>
    Fold128,

    /// <summary>VPCLMULQDQ on 256 bits.</summary>
    Fold256,

    /// <summary>VPCLMULQDQ on 512 bits.</summary>
    Fold512,
}
